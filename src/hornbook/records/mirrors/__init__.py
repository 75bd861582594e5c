"""Trackers of others, one file each, named as its package and its extra; `mirroring.py` says what a file must have."""
