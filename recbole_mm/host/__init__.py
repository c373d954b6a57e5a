"""The part of the package that knows RecBole's internals: repairs it needs, and the look-ups that find our models."""
