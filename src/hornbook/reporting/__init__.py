"""From records to pictures and pages. Torch-free."""
