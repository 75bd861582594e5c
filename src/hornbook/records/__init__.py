"""What a run leaves behind: the run folder and its reports. Torch-free."""
