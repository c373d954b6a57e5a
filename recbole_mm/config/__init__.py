"""Options: what exists, what a value may be, and the strict view a model reads them through."""

from __future__ import annotations

from recbole_mm.config.check import check_command_line, check_config, check_read
from recbole_mm.config.cold_start import ColdStart, ColdStartOptions, read_cold_start
from recbole_mm.config.evaluation import resolve_eval_batch_size
from recbole_mm.config.names import known_keys, suggest
from recbole_mm.config.options import ModelOptions
from recbole_mm.config.reading import check_sources, read_options
from recbole_mm.config.shared import SHARED_OPTIONS, active_weights, check_modalities, modality_names
from recbole_mm.paths import properties_dir as properties_directory

__all__ = [
    "SHARED_OPTIONS",
    "ColdStart",
    "ColdStartOptions",
    "ModelOptions",
    "active_weights",
    "check_command_line",
    "check_config",
    "check_read",
    "check_sources",
    "check_modalities",
    "known_keys",
    "modality_names",
    "properties_directory",
    "read_cold_start",
    "read_options",
    "resolve_eval_batch_size",
    "suggest",
]
