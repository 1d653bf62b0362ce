"""The words of the shell, one file each. They find what the words name, call the library, and draw what comes back."""
