"""Feature files: finding, reading, aligning and scaling them."""
