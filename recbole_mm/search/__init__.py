"""Searching hyper-parameters."""
