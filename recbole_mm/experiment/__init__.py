"""One run: from a configuration to a trained and tested model with its record."""
