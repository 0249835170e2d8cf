"""`moworld doctor`: every operator's choice with what was refused, and an override that cannot be kept."""

import json
import os
import subprocess
import sys

import pytest

from kernels import OPERATORS


def doctor(tmp_path, kernels: str = "") -> tuple[int, dict[str, dict]]:
    command = [sys.executable, "-c", "from pipelines.cli.app import main; main()", "doctor", "--json"]
    environment = {**os.environ, "MOWORLD_HOME": str(tmp_path), "MOWORLD_KERNELS": kernels}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, {row["what"]: row for row in json.loads(done.stdout)}


def test_every_operator_says_what_runs_and_why_the_others_do_not(tmp_path):
    _, rows = doctor(tmp_path)
    for name in OPERATORS:
        assert rows[f"kernel {name} on cpu"]["ok"]
        of_gpus, devices = ("hopper", "cuda") if name == "sdpa" else ("triton", "cuda, npu")
        assert rows[f"kernel {name} on cpu: {of_gpus}"] == {
            "what": f"kernel {name} on cpu: {of_gpus}", "ok": None, "found": "refused", "mend": f"serves {devices}",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("named", "row", "words"),
    [
        ("attention=triton", "kernel attention on cpu", "serves cuda, npu"),
        ("attention=fast", "kernel attention on cpu", "none is named fast"),
        ("atention=reference", "kernels", "an operator of attention"),
    ],
)
def test_an_override_that_cannot_be_kept_is_missing_with_its_mend(tmp_path, named, row, words):
    status, rows = doctor(tmp_path, named)
    assert status == 1 and rows[row]["ok"] is False
    assert words in rows[row]["found"] and "MOWORLD_KERNELS" in rows[row]["mend"]


def test_an_override_is_kept_and_told(tmp_path):
    _, rows = doctor(tmp_path, "attention=reference")
    assert rows["kernel attention on cpu"]["found"] == "reference (named in MOWORLD_KERNELS)"


def test_a_kernel_that_is_named_and_cannot_run_ends_a_verb_with_one_line_and_status_2(tmp_path):
    command = [sys.executable, "-c", "from pipelines.cli.app import main; main()", "bench", "attention", "--profile", "test"]
    environment = {**os.environ, "MOWORLD_HOME": str(tmp_path), "MOWORLD_KERNELS": "attention=npu_binding"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "named npu_binding (MOWORLD_KERNELS) for cpu: serves npu" in done.stderr
