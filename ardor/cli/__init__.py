"""The `ardor` command: words for what the library does."""
