"""Repairs that RecBole 1.2.1 needs on current libraries, one function per repair.

Every repair first tries out whether the installed library still does what RecBole relies on, and does nothing if it
does; it returns whether it was needed. What RecBole calls is repaired, not what other code calls. A repair that changes
a RecBole function edits its source text in place, so nothing of RecBole is copied here, and stops with an error when
the text is another one.
"""

from __future__ import annotations

import functools
import inspect
import io
import os
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from recbole_mm.host import anomaly, sparse
from recbole_mm.host.editing import edit, unexpected
from recbole_mm.host.names import check_model_name

__all__ = [
    "repair_agg_len",
    "repair_anomaly_detection",
    "repair_chained_fillna",
    "repair_dok_update",
    "repair_ensure_dir",
    "repair_get_model",
    "repair_item_metrics",
    "repair_numpy_aliases",
    "repair_ray_import",
    "repair_sparse_autocast",
    "repair_torch_load",
]


def repair_ray_import() -> bool:
    """``recbole.quick_start`` imports ``ray.tune``, for one call of ``tune.report``.

    The ray that RecBole asks for (<= 2.6.3) fails to import with setuptools >= 82 or numpy >= 2, has no files for
    Python >= 3.12, and takes 2 to 13 seconds where it works. A report means something only within a Ray Tune trial, and
    a trial has ray imported already. So unless ray is imported, RecBole gets a stand-in that passes reports on to Ray
    Tune when there is one, and ``import ray`` elsewhere finds whatever it would have found without us.
    """
    if "recbole.quick_start" in sys.modules or "ray.tune" in sys.modules:
        import_module("recbole.quick_start")
        return False
    tune: Any = types.ModuleType("ray.tune")
    tune.report = _report_to_ray_tune
    package: Any = types.ModuleType("ray")
    package.tune = tune
    before = {name: sys.modules.get(name) for name in ("ray", "ray.tune")}
    sys.modules.update({"ray": package, "ray.tune": tune})
    try:
        quick_start = import_module("recbole.quick_start.quick_start")
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    if getattr(quick_start, "tune", None) is not tune:
        raise unexpected("recbole.quick_start", "from ray import tune")
    return True


def _report_to_ray_tune(**metrics: Any) -> None:
    tune = sys.modules.get("ray.tune")
    if tune is None:
        return
    # Ray 2.7 replaced the keywords by one dictionary.
    parameter = inspect.signature(tune.report).parameters.get("metrics")
    if parameter is not None and parameter.kind is not parameter.VAR_KEYWORD:
        tune.report(metrics)
    else:
        tune.report(**metrics)


def repair_numpy_aliases() -> bool:
    """RecBole writes ``np.float = np.float_`` and seven more such aliases into numpy whenever a Config is made.

    numpy 2 has no ``float_``, ``complex_`` and ``unicode_``, so no Config can be made. Besides, data loaded from a
    checkpoint by a fresh process makes no Config and then misses ``np.float``, hence the aliases are set at once. They
    are numpy-wide, as RecBole's own are.
    """
    import numpy as np
    from recbole.config import Config

    needed = not all(name in vars(np) for name in ("float_", "complex_", "unicode_"))
    if needed:
        edit(
            Config.compatibility_settings,
            {
                "= np.float_\n": "= np.float64\n",
                "= np.complex_\n": "= np.complex128\n",
                "= np.unicode_\n": "= np.str_\n",
            },
        )
    if needed or "float" not in vars(np):
        Config.compatibility_settings(None)
        return True
    return False


def repair_dok_update() -> bool:
    """LightGCN, NGCF and five more fill a ``dok_matrix`` through ``_update``, which scipy 1.13 removed."""
    from scipy.sparse import dok_matrix

    if hasattr(dok_matrix, "_update"):
        return False
    if not isinstance(getattr(dok_matrix((1, 1)), "_dict", None), dict):
        raise unexpected("scipy.sparse.dok_matrix", "_dict")

    def _update(self: Any, data: Mapping[tuple[int, int], Any]) -> None:
        """Add entries without the index checks of item assignment."""
        self._dict.update(data)

    dok_matrix._update = _update
    return True


def repair_torch_load() -> bool:
    """Torch 2.6 and newer refuse RecBole's checkpoints, since they hold a pickled Config (and pickle protocol 4).

    ``torch.load`` called by a RecBole module reads them again, exactly as RecBole did before torch 2.6, which means
    that a pickle from an untrusted source can run code; what we write is read without that, and RecBole is given what
    it expects of it (:mod:`recbole_mm.host.checkpoint`). Everybody else's ``torch.load`` keeps its safe default.
    """
    import torch

    original = torch.load
    if getattr(original, "_recbole_mm", False):
        return False
    needed = _refuses_pickles(original)

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        if not sys._getframe(1).f_globals.get("__name__", "").startswith("recbole."):
            return original(*args, **kwargs)
        from recbole_mm.host.checkpoint import load_for_recbole

        return load_for_recbole(original, *args, **kwargs)

    load.__module__ = "torch"  # the name under which it can be found, for pickle
    load._recbole_mm = True  # type: ignore[attr-defined]
    torch.load = load
    return needed


def _refuses_pickles(load: Callable[..., Any]) -> bool:
    import torch

    buffer = io.BytesIO()
    torch.save({"config": types.SimpleNamespace()}, buffer, pickle_protocol=4)
    buffer.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(buffer)
        return False
    except pickle.UnpicklingError:
        return True


def repair_chained_fillna() -> bool:
    """With pandas 3 ``frame[field].fillna(..., inplace=True)`` changes a copy, silently.

    Missing numbers stay NaN, missing tokens become the id -9223372036854775808 (the padding row of every ``.user`` and
    ``.item`` file has them), and an empty cell of a sequence column raises.
    """
    import pandas as pd
    from recbole.data.dataset import Dataset

    frame = pd.DataFrame({"field": [None, "a"]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame["field"].fillna(value="", inplace=True)
    if frame["field"].notna().all():
        return False
    edit(
        Dataset._load_feat,
        {'df[field].fillna(value="", inplace=True)': 'df[field] = df[field].fillna(value="")'},
    )
    edit(
        Dataset._fill_nan,
        {
            "feat[field].fillna(value=0, inplace=True)": "feat[field] = feat[field].fillna(value=0)",
            "feat[field].fillna(value=feat[field].mean(), inplace=True)": (
                "feat[field] = feat[field].fillna(value=feat[field].mean())"
            ),
        },
    )
    return True


def repair_agg_len() -> bool:
    """With pandas 3 ``series.agg(len)`` is the length of the series, no longer the lengths of its elements."""
    import pandas as pd
    from recbole.data.dataset import Dataset, KnowledgeBasedDataset, SequentialDataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lengths = pd.Series([[1, 2], [3]]).agg(len)
    if isinstance(lengths, pd.Series):
        return False
    for function, count in (
        (Dataset._remap, 1),
        (Dataset._normalize, 1),
        (Dataset._discretization, 2),
        (KnowledgeBasedDataset._reset_ent_remapID, 1),
    ):
        edit(function, {"feat[field].agg(len)": "feat[field].map(len)"}, count)
    edit(SequentialDataset._benchmark_presets, {"].agg(len)": "].map(len)"})
    return True


def repair_get_model() -> bool:
    """An unknown model name is reported as "No module named 'lightgbm'", or as a missing attribute.

    RecBole looks in its ``exlib_recommender`` package last, and merely looking there imports lightgbm.
    """
    from recbole.utils import get_model

    if getattr(get_model, "_recbole_mm", False):
        return False
    get_model.__globals__["check_model_name"] = check_model_name
    edit(
        get_model,
        {"model_file_name = model_name.lower()": "check_model_name(model_name); model_file_name = model_name.lower()"},
    )
    get_model._recbole_mm = True
    return True


def repair_anomaly_detection() -> bool:
    """Importing any sequential model switches on autograd's anomaly detection, see :mod:`recbole_mm.host.anomaly`."""
    return anomaly.install()


def repair_item_metrics() -> bool:
    """ItemCoverage, AveragePopularity, ShannonEntropy, GiniIndex and TailPercentage raise an AttributeError.

    They need counts of the training data, plain Python objects, of which RecBole's collector wants copies in memory
    (``.cpu()``), as of its tensors.
    """
    from recbole.evaluator.collector import Collector, DataStruct

    collector, function = Collector.__new__(Collector), inspect.unwrap(Collector.get_data_struct)
    collector.data_struct = DataStruct()
    collector.data_struct.set("data.num_items", 1)
    try:
        function(collector)
        return False
    except AttributeError:
        line = "self.data_struct._data_dict[key] = self.data_struct._data_dict[key].cpu()"
        edit(function, {line: f'if hasattr(self.data_struct._data_dict[key], "cpu"): {line}'})
        return True


def repair_ensure_dir() -> bool:
    """Of several processes that start together one may die of a FileExistsError.

    RecBole makes the folders of its logs and checkpoints after it has looked whether they are there. Tried out with a
    look that finds nothing, which is what a process sees when another one makes the folder right after it.
    """
    from recbole.utils.utils import ensure_dir

    late: Any = types.SimpleNamespace(path=types.SimpleNamespace(exists=lambda path: False), makedirs=os.makedirs)
    try:
        types.FunctionType(ensure_dir.__code__, {"os": late})(os.path.dirname(__file__))
        return False
    except FileExistsError:
        look = "if not os.path.exists(dir_path):\n        os.makedirs(dir_path)"
        edit(ensure_dir, {look: "os.makedirs(dir_path, exist_ok=True)"})
        return True


def repair_sparse_autocast() -> bool:
    """Under ``enable_amp`` on a CPU LightGCN and the other graph models die in ``backward``: Float against BFloat16."""
    return sparse.install()
