"""A failed step leaves no process behind: one that holds its output open would stop the engine that reads it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAILS = """
import subprocess, sys
from types import SimpleNamespace
from moworld_ops.components.platform.steps import recorded
with recorded(SimpleNamespace(name="clips", path=sys.argv[1], metadata={})):
    subprocess.run(["sh", "-c", "sleep 600 & echo $!"])  # the shell ends, its child has no parent
    raise RuntimeError("a worker was terminated abruptly")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux")
def test_a_failed_step_kills_orphans_that_hold_its_output(tmp_path: Path):
    command = [sys.executable, "-c", FAILS, str(tmp_path / "step" / "clips")]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "MOWORLD_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "terminated abruptly" in done.stderr
    state = Path("/proc", done.stdout.split()[0], "stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
