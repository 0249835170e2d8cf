"""The player measured through a browser."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moworld_ops.benchmarks.browser import CHROMIUM
from moworld_ops.benchmarks.player import bench_player

SHIPPED = Path(__file__).parents[3] / "models" / "pocket-long"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_rows_say_what_was_drawn_and_how_long_keys_took() -> None:
    rows = {row["case"]: row for row in bench_player(SHIPPED, events=6)}
    assert len(rows) == 12 and all(row.keys() == {"case", "ours", "peer", "peer_name", "ratio", "unit"} for row in rows.values())
    for setting, wanted in (("default", 250.0), ("low latency", 150.0)):
        median, high = (rows[f"{setting}: key to frame, {name}"] for name in ("median", "95th percentile"))
        making, chunk = rows[f"{setting}: making of a chunk"]["ours"], rows[f"{setting}: chunk interval, median"]
        assert (
            0 < median["ours"] <= high["ours"]
            and high["peer"] == wanted
            and high["ratio"] == pytest.approx(wanted / high["ours"], abs=1e-3)
        )
        assert chunk["peer"] == pytest.approx({"default": 400.0, "low latency": 400 / 3}[setting], abs=1e-3) and chunk["ours"] > 0.5 * chunk["peer"]
        assert making > 0 and 0 <= rows[f"{setting}: chunks in time"]["ours"] <= 100
        assert 1 < rows[f"{setting}: frames drawn a second"]["ours"] < 36


def test_without_a_browser_it_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from moworld_ops.pipelines.cli.app import main; main()", "bench", "player"]
    done = subprocess.run(command, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "apt-get install chromium" in done.stderr and len(done.stderr.strip().splitlines()) == 1
