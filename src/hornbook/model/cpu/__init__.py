"""What makes a CPU fast: without it nothing changes but speed and rounding."""
