"""From a net to files for a device: export, the variants side by side, and the folder for the Hub."""

__all__ = ["export", "hub", "variants"]
