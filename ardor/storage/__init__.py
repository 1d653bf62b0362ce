"""How a file is kept: configurations, tensors, a run's folder, atomic writes, locks, downloads."""
