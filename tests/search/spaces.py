"""The space that tests of the search share."""

SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "embedding_size": [8, 16]}
