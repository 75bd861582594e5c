"""One update, the loop around it, its checkpoints and its guard."""
