"""The model UniSRec."""

from recbole_mm.model.unisrec.unisrec import UniSRec

__all__ = ["UniSRec"]
