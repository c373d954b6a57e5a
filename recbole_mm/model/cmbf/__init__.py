"""The model CMBF."""

from recbole_mm.model.cmbf.cmbf import CMBF

__all__ = ["CMBF"]
