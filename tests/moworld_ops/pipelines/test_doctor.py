"""`moworld doctor`: the choice for every operator, invalid overrides, and a torch that cannot be imported."""

import json
import os

import pytest
from typer.testing import CliRunner

from moworld.devices import pick_device
from moworld.kernels import OPERATORS
from moworld_ops.pipelines.cli.app import app
from tests.moworld_ops.pipelines.test_cli import moworld


def doctor(tmp_path, kernels: str = "") -> tuple[int, dict[str, dict]]:
    done = CliRunner().invoke(app, ["doctor", "--json"], env={"MOWORLD_HOME": str(tmp_path), "MOWORLD_KERNELS": kernels})
    return done.exit_code, {row["what"]: row for row in json.loads(done.stdout)}


def test_every_operator_has_a_choice_and_reasons_for_the_refused_implementations(tmp_path):
    _, rows = doctor(tmp_path)
    assert rows["kernel attention with log-sum-exp on cpu"]["found"] == "flash_cpu"
    for name in OPERATORS:
        assert rows[f"kernel {name} on cpu"]["ok"]
        of_gpus = {"attention": "hopper", "gaussians": "gsplat"}.get(name, "triton")
        assert rows[f"kernel {name} on cpu: {of_gpus}"] == {
            "what": f"kernel {name} on cpu: {of_gpus}", "ok": None, "found": "refused", "fix": "serves cuda", "mend": "serves cuda",
        }  # fmt: skip


def test_the_device_of_models_is_shown(tmp_path):
    row = doctor(tmp_path)[1]["device for models"]
    assert row["ok"] and row["found"].split(",")[0] == str(pick_device())


@pytest.mark.parametrize(
    ("named", "row", "words"),
    [
        ("attention=triton", "kernel attention on cpu", "serves cuda"),
        ("attention=fast", "kernel attention on cpu", "no implementation is named fast"),
        ("atention=reference", "kernels", "an operator of attention"),
        ("sdpa=reference", "kernels", "write attention=sdpa"),
    ],
)
def test_an_invalid_override_is_missing_with_its_fix(tmp_path, named, row, words):
    status, rows = doctor(tmp_path, named)
    assert status == 1 and rows[row]["ok"] is False
    assert words in rows[row]["found"] and "MOWORLD_KERNELS" in rows[row]["fix"]


def test_an_override_is_applied_and_shown(tmp_path):
    _, rows = doctor(tmp_path, "attention=reference")
    assert rows["kernel attention on cpu"]["found"] == "reference (named in MOWORLD_KERNELS)"


def test_a_named_implementation_without_log_sum_exp_is_reported_for_the_calls_that_require_it(tmp_path):
    _, rows = doctor(tmp_path, "attention=sdpa")
    assert rows["kernel attention on cpu"]["ok"]
    row = rows["kernel attention with log-sum-exp on cpu"]
    assert row["ok"] is None and "computes no log-sum-exp" in row["found"]


def test_a_named_kernel_that_cannot_run_ends_a_command_with_one_line_and_status_2(tmp_path):
    done = moworld(tmp_path, "bench", "attention", "--profile", "test", MOWORLD_KERNELS="attention=npu_binding")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "named npu_binding (MOWORLD_KERNELS) for cpu: serves npu" in done.stderr


@pytest.mark.parametrize(
    ("requires", "error", "build", "fix"),
    [
        ("nvidia-cublas-cu13==13.0; platform_system == 'Linux'", "ValueError", "9.9.1, CUDA build", "pip install nvidia-cublas-cu13"),
        ("numpy", "OSError", "9.9.1, CPU build", "requirements.torch.lock"),
    ],
)
def test_a_torch_that_cannot_be_imported_is_named_with_its_build_and_the_fix(tmp_path, requires, error, build, fix):
    """The fake is found before the installed one, by its metadata as well as by its import."""
    fake = tmp_path / "fake"
    (fake / "torch").mkdir(parents=True)
    (fake / "torch" / "__init__.py").write_text(f"raise {error}('libcublasLt.so.*[0-9]\\nnot found in the system path')\n")
    (fake / "torch-9.9.1.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: 9.9.1\nRequires-Dist: sympy\nRequires-Dist: {requires}\n"
    (fake / "torch-9.9.1.dist-info" / "METADATA").write_text(metadata)
    done = moworld(tmp_path, "doctor", "--json", PYTHONPATH=os.pathsep.join([str(fake), os.environ["PYTHONPATH"]]))
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    row = rows["package torch"]
    assert done.returncode == 1 and not done.stderr and row["ok"] is False
    assert row["found"] == f"{build}; its import fails: {error}: libcublasLt.so.*[0-9] not found in the system path"
    assert fix in row["fix"] and not [name for name in rows if name.startswith("kernel")]
