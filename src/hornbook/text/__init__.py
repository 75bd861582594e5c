"""From files to documents, to sides of a split, to token ids. Torch-free."""
