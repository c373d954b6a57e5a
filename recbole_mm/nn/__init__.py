"""Building blocks that know torch only: sparse graphs, losses, fusion, attention."""
