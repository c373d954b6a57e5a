"""Peak memory and time from a large feature file to what a model reads: ``python benchmarks/feature_loading.py``.

Writes a synthetic matrix (float16, rows shuffled) to a temporary folder: ``.npy`` with ``.ids``, a ``.npz`` that is
compressed or not, or a ``.parquet`` of one row group. A fresh process aligns it to a vocabulary, brings it to scale and
keeps it in ``--dtype``; the growth of that process's peak resident memory is compared with the size of the kept table.
Linux only (``/proc``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1.3


def main() -> int:
    """Run the benchmark; the exit status is 1 if memory exceeds the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=63_000)
    parser.add_argument("--dim", type=int, default=4480)
    parser.add_argument("--format", choices=("npy", "npz", "compressed", "parquet"), default="npy")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    parser.add_argument("--norm", default="zscore_l2", help="feature_norm")
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(measure(options.child, options.dtype, options.norm)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = write(Path(folder), options.items, options.dim, options.format)
        command = [sys.executable, __file__, f"--child={path}", f"--dtype={options.dtype}", f"--norm={options.norm}"]
        output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    result = {
        "items": options.items,
        "dim": options.dim,
        "format": options.format,
        "dtype": options.dtype,
        "norm": options.norm,
        **json.loads(output.splitlines()[-1]),
    }
    result["ratio"] = result["peak_growth_mb"] / result["table_mb"]
    print(json.dumps(result))
    print(
        f"{options.items:,} x {options.dim:,} float16 from {options.format}: {result['cpu_seconds']:.1f} CPU s, peak "
        f"memory +{result['peak_growth_mb']:,.0f} MB for a {options.dtype} table of {result['table_mb']:,.0f} MB "
        f"({result['ratio']:.2f} x)"
    )
    return int(result["ratio"] > LIMIT)


def write(folder: Path, items: int, dim: int, kind: str) -> Path:
    """Write the feature file in blocks, in shuffled row order."""
    generator = np.random.default_rng(0)
    target = folder / "bench.item.image.npy"
    ids = [f"item{k}" for k in generator.permutation(items)]
    matrix = np.lib.format.open_memmap(target, mode="w+", dtype=np.float16, shape=(items, dim))
    for start in range(0, items, 2048):
        rows = min(2048, items - start)
        matrix[start : start + rows] = generator.standard_normal((rows, dim), dtype=np.float32)
    matrix.flush()
    if kind == "npy":
        target.with_suffix(".ids").write_text("\n".join(["item_id:token", *ids, ""]), encoding="utf-8")
        return target
    path = target.with_suffix(".parquet" if kind == "parquet" else ".npz")
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        lists = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), dim)
        pq.write_table(pa.table({"id": ids, "feature": lists}), path, row_group_size=items)
    else:
        (np.savez_compressed if kind == "compressed" else np.savez)(path, id=np.array(ids), feature=matrix)
    target.unlink()
    return path


def measure(path: Path, dtype: str, norm: str) -> dict[str, float]:
    """Align and prepare the file and report the memory that this took."""
    sys.path.insert(0, str(ROOT))
    import torch

    from recbole_mm.data.features.files import FeatureFile
    from recbole_mm.data.features.store import align, prepare

    file = FeatureFile("item", "image", path)
    vocabulary = {"[PAD]": 0, **{token: k for k, token in enumerate(sorted(file.tokens()[0].tolist()), start=1)}}
    before = memory("VmRSS")
    start, cpu = time.perf_counter(), time.process_time()
    raw = align(file, vocabulary, getattr(torch, dtype))  # the data set keeps it
    feature = prepare(raw, norm, "zero").feature
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "table_mb": feature.numel() * feature.element_size() / 2**20,
        "peak_growth_mb": memory("VmHWM") - before,
    }


def memory(field: str) -> float:
    """A field of this process's status, in MB: VmRSS is resident now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}.")


if __name__ == "__main__":
    sys.exit(main())
