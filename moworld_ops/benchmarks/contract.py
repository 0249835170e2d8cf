"""`moworld bench contract`: a check of a manifest with a million rows. It has no peer."""

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HIGHEST = {"epipolar_error_px": 1.6, "max_rotation_step_degrees": 15.1, "max_translation_step": 12.1, "jitter_degrees": 1.0}


def bench_contract(check: Callable[[Path], int], rows: int = 1_000_000) -> dict[str, Any]:
    """Returns seconds and peak bytes of a check of `rows` clips with random measures up to HIGHEST.

    check: returns how many rows of the manifest in a directory it rejected
    """
    import pyarrow
    from pyarrow import parquet

    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        columns: dict[str, Any] = {name: generator.uniform(0, high, rows) for name, high in HIGHEST.items()}
        columns |= {"clip_id": [f"clip-{number:08d}" for number in range(rows)], "camera": ["cameras/a.txt"] * rows}
        parquet.write_table(pyarrow.table(columns), Path(scratch) / "manifest.parquet")
        del columns
        started = time.perf_counter()
        rejected = check(Path(scratch))
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"case": f"contract check of {rows:,} rows", "rejected": rejected, "seconds": round(seconds, 2), "peak_bytes": peak}
