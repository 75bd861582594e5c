"""The composition root: settings become objects here, and what happens when is decided here."""
