"""Attention: over sets, between modalities, along sequences."""
