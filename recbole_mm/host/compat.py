"""Which repairs of RecBole 1.2.1 the installed libraries make necessary: applied when the package is imported."""

from __future__ import annotations

from collections.abc import Callable

from recbole_mm.host import repairs
from recbole_mm.host.editing import RECBOLE_VERSION, versions
from recbole_mm.host.names import not_installed

__all__ = ["install", "installed_repairs", "repair_reasons"]

#: In the order in which they are applied: importing ``recbole.quick_start`` is itself one of the things that break.
_REPAIRS: tuple[Callable[[], bool], ...] = (
    repairs.repair_ray_import,
    repairs.repair_numpy_aliases,
    repairs.repair_dok_update,
    repairs.repair_torch_load,
    repairs.repair_chained_fillna,
    repairs.repair_agg_len,
    repairs.repair_get_model,
    repairs.repair_anomaly_detection,
    repairs.repair_item_metrics,
    repairs.repair_ensure_dir,
    repairs.repair_sparse_autocast,
)

_applied: dict[str, bool] = {}


def install() -> None:
    """Apply every repair that the installed libraries make necessary; calling it again does nothing.

    Raises:
        RuntimeError: RecBole is not the version, or not the code, that the repairs were written for.
    """
    if _applied:
        return
    _check_recbole()
    # Noted when all are done: after a failure the next import tries again, instead of taking RecBole for repaired.
    _applied.update({_name(repair): repair() for repair in _REPAIRS})


def installed_repairs() -> dict[str, bool]:
    """Name of each repair, and whether it was needed here."""
    return dict(_applied)


def repair_reasons() -> dict[str, str]:
    """Name of each repair, and the sentence that says why it exists."""
    return {_name(repair): (repair.__doc__ or "").split("\n")[0].replace("``", "") for repair in _REPAIRS}


def _name(repair: Callable[[], bool]) -> str:
    return repair.__name__.removeprefix("repair_")


def _check_recbole() -> None:
    try:
        import recbole
    except ModuleNotFoundError as error:
        if error.name != "recbole":
            raise
        raise ModuleNotFoundError(not_installed(), name="recbole") from error

    got = getattr(recbole, "__version__", "unknown")
    if got != RECBOLE_VERSION:
        raise RuntimeError(
            f"recbole_mm is written for RecBole {RECBOLE_VERSION} and got {got} ({versions()}). "
            f"Install it with: pip install 'recbole=={RECBOLE_VERSION}' (Python 3.12 or newer: pip install --no-deps "
            f"'recbole=={RECBOLE_VERSION}', because its requirement ray<=2.6.3 has no files for it)."
        )
