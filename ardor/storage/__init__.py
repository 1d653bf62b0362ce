"""Files: configurations, tensors, a run's folder, recipes, atomic writes, locks, downloads, third-party code."""

__all__ = ["config", "download", "files", "imports", "locks", "reading", "recipes", "runs", "tensors", "trust"]
