"""Each evaluation is a function: (model, data) -> Report."""
