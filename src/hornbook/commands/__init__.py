"""One file for a command: its flags, its function."""
