"""Cost of the local engine: a run of pipeline `data` beside the sum of its steps' seconds."""

import tempfile
import time
from typing import Any

from moworld_ops.components.platform.home import environment
from moworld_ops.pipelines.start import start


def bench_pipeline(profile: str) -> list[dict[str, Any]]:
    """Returns one row: seconds of a run, from its start to its report, beside the sum of its steps' own seconds.

    The sum is the time of a script that starts the same steps one after another and keeps no record.
    """
    with tempfile.TemporaryDirectory() as folder, environment(MOWORLD_HOME=folder):
        began = time.perf_counter()
        run = start("data", profile, [], lambda name, record: None, lambda run: None)
        whole = time.perf_counter() - began
        record, steps = run.record, run.steps()
    if record["status"] != "done":
        raise RuntimeError(f"the run ended as {record['status']}: {record.get('error')}")
    alone = sum(step["seconds"] for step in steps.values())
    row = {"case": f"pipeline data, profile {profile}, {len(steps)} steps", "ours": round(whole, 3), "peer": round(alone, 3)}
    return [{**row, "peer_name": "its steps alone", "ratio": round(alone / whole, 3), "unit": "s"}]
