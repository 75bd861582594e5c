"""One decoder whose families are data, its cache, its generation, its weights."""
