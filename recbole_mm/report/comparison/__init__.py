"""The page of a comparison: its table, its tests in words, its pictures and what was run."""
