"""Metrics of parts of an evaluation: warm, cold and long-tail users and items, with a random ranking as floor."""
