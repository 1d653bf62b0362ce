"""The version, alone in a file: importing it costs nothing."""

__version__ = "0.2.0"
