"""The model UVCAN."""

from recbole_mm.model.uvcan.uvcan import UVCAN

__all__ = ["UVCAN"]
