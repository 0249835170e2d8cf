"""What the engine adds to its steps: a run of the data pipeline against the seconds that its steps take by themselves."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.start import start


def bench_pipeline(profile: str) -> list[dict[str, Any]]:
    """One row: a run of pipeline `data`, from its start to its closed record and report, beside the sum of its steps' own seconds.

    That sum is what a script would take that started the same steps one after another and kept no record.
    """
    with _own_home():
        began = time.perf_counter()
        run = start("data", profile, [], lambda name, record: None, lambda run: None)
        whole = time.perf_counter() - began
        record, steps = run.record, run.steps()
    if record["status"] != "done":
        raise RuntimeError(f"the run ended as {record['status']}: {record.get('error')}")
    alone = sum(step["seconds"] for step in steps.values())
    row = {"case": f"pipeline data, profile {profile}, {len(steps)} steps", "ours": round(whole, 3), "peer": round(alone, 3)}
    return [{**row, "peer_name": "its steps alone", "ratio": round(alone / whole, 3), "unit": "s"}]


@contextmanager
def _own_home() -> Iterator[None]:
    """A state folder of its own, so that the bench neither reads nor leaves anything."""
    kept = os.environ.get("MOWORLD_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MOWORLD_HOME"] = folder
        try:
            yield
        finally:
            if kept is None:
                del os.environ["MOWORLD_HOME"]
            else:
                os.environ["MOWORLD_HOME"] = kept
