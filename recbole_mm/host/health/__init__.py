"""Notices when a training goes wrong, whatever model and trainer it is, without changing anything of it."""
