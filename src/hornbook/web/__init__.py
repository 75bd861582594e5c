"""The dashboard and the server: torch-free; a model runs in a child process."""
