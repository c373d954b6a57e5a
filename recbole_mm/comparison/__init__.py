"""Compares recommenders so that the answer can be published: one protocol, equal budgets, uncertainty."""
