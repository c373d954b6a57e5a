"""Data sets with features: reading, aligning, converting."""
