"""The commands, one file each: parse the words, call the library, display the result."""
