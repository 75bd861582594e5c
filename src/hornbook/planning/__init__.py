"""What a run needs and what to expect of it, before it runs. Torch-free."""
