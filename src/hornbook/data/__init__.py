"""From token ids on disk to batches. Torch-free: it yields numpy arrays."""
