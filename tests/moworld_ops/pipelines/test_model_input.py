"""Invalid models through the command line: one line that names the file, exit status 2, nothing on stdout."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from safetensors.torch import load_file, save_file

from moworld.model.world import WEIGHTS
from moworld_ops.components.platform import signing
from moworld_ops.components.register.step import register
from moworld_ops.pipelines.cli.app import main
from tests.moworld.inference.worlds import picture, served_world

SHIPPED = Path(__file__).parents[3] / "models" / "pocket-long"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    served_world(folder / "codec").save(folder / "model")
    return folder / "model"


@pytest.fixture
def model(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "home"))
    cv2.imwrite(str(tmp_path / "first.png"), picture())
    return Path(shutil.copytree(sound, tmp_path / "model"))


def moworld(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    """Exit status, stdout and stderr of the command's entry point."""
    monkeypatch.setattr(sys, "argv", ["moworld", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return (ended.value.code, *capsys.readouterr())


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def nested(path: Path, **values: object) -> None:
    change(path, model={**json.loads(path.read_text())["model"], **values})


def rewritten(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(path)
    edit(state)
    path.unlink()
    save_file(state, path)


def first(state: dict[str, torch.Tensor]) -> str:
    return next(key for key in sorted(state) if state[key].ndim == 2)


EXPERT, CODEC, INDEX = f"transformer/{WEIGHTS}", f"vae/{WEIGHTS}", "model_index.json"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda m: (m / INDEX).unlink(), INDEX),
    "index that is no JSON": (lambda m: (m / INDEX).write_text("{"), INDEX),
    "index that is a list": (lambda m: (m / INDEX).write_text("[]"), INDEX),
    "index of a Diffusers pipeline": (
        lambda m: (m / INDEX).write_text(json.dumps({"_class_name": "WanImageToVideoPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]})),
        "WanImageToVideoPipeline",
    ),
    "setting that does not exist": (lambda m: change(m / INDEX, heigth=16), "heigth"),
    "setting that is no number": (lambda m: change(m / INDEX, height="tall"), "height"),
    "frame rate of nothing": (lambda m: change(m / INDEX, fps=1e-300), "fps"),
    "NaN": (lambda m: change(m / INDEX, move_units=float("nan")), "move_units"),
    "no focal length": (lambda m: change(m / INDEX, intrinsics=[1e-300, 1, 0.5, 0.5]), "intrinsics.0"),
    "a walk without steps": (lambda m: change(m / INDEX, move_units=1e-300), "move_units"),
    "an odd head": (lambda m: nested(m / INDEX, attention_head_dim=3), "attention_head_dim"),
    "an endless chunk": (lambda m: nested(m / INDEX, chunk_latents=1000), "chunk_latents"),
    "endless steps": (lambda m: nested(m / INDEX, student_steps=1000), "student_steps"),
    "no text": (lambda m: change(m / INDEX, text={"kind": "minilm", "length": 0}), "text.length"),
    "deep JSON": (lambda m: (m / INDEX).write_text("[" * 100_000), INDEX),
    "a long integer": (lambda m: (m / INDEX).write_text('{"height": ' + "9" * 5000 + "}"), INDEX),
    "codec that is a list": (lambda m: (m / "vae" / "config.json").write_text("[]"), "vae/config.json"),
    "more layers than weights": (lambda m: nested(m / INDEX, num_layers=2), "keys"),
    "another width": (lambda m: nested(m / INDEX, ffn_dim=48), "shape"),
    "weights of another precision": (lambda m: change(m / INDEX, quantization="w8a8"), "quantization"),
    "no expert": (lambda m: shutil.rmtree(m / "transformer_2"), "transformer_2"),
    "truncated weights": (lambda m: (m / EXPERT).write_bytes((m / EXPERT).read_bytes()[:5000]), EXPERT),
    "weights that are a pickle": (lambda m: torch.save({"a": torch.zeros(2)}, m / EXPERT), EXPERT),
    "empty weights": (lambda m: (m / EXPERT).write_bytes(b""), EXPERT),
    "a tensor too few": (lambda m: rewritten(m / EXPERT, lambda state: state.pop(first(state))), "keys"),
    "index of shards that names none": (lambda m: (m / f"{EXPERT}.index.json").write_text("{}"), "index.json"),
    "no codec": (lambda m: shutil.rmtree(m / "vae"), "vae"),
    "truncated codec": (lambda m: (m / CODEC).write_bytes((m / CODEC).read_bytes()[:400]), "vae"),
    "codec without its configuration": (lambda m: (m / "vae" / "config.json").unlink(), "vae/config.json"),
    "codec of another kind": (lambda m: (m / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}'), "AutoencoderKL"),
    "codec of another size": (lambda m: change(m / "vae" / "config.json", hidden=16), "vae"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_of_a_wrong_layout_is_one_line_and_exit_status_2(
    model: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    make, words = DAMAGES[damage]
    make(model)
    for command in (("rollout", "--image", tmp_path / "first.png", "--out", tmp_path / "out.mp4"), ("play", "--port", 0)):
        status, out, err = moworld(monkeypatch, capsys, *command, "--model", model)
        assert status == 2 and out == "" and len(err.strip().splitlines()) == 1, err
        assert words in err and (str(model) in err or damage == "no codec"), err
    assert not (tmp_path / "out.mp4").exists()


def test_a_file_is_no_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    status, _, err = moworld(monkeypatch, capsys, "play", "--model", model / EXPERT)
    assert status == 2 and len(err.strip().splitlines()) == 1 and "no such folder" in err


@pytest.mark.parametrize("command", ["play", "rollout"])
def test_an_unsigned_model_is_refused_where_signatures_are_required(
    model: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    rest = ("--port", 0) if command == "play" else ("--image", tmp_path / "first.png", "--out", tmp_path / "out.mp4")

    def refusal(reference: object, expected: int = 2) -> str:
        status, out, err = moworld(monkeypatch, capsys, command, *rest, "--require-signature", "--model", reference)
        assert status == expected and out == "" and len(err.strip().splitlines()) == 1, err
        return err

    assert "no signature" in refusal(model) and "no signature" in refusal("")  # the model in the package has none
    signing.sign(model, model.parent / "model.sig")
    (model / INDEX).unlink()
    assert "not what was signed" in refusal(model, 1)
    monkeypatch.setenv("MOWORLD_REQUIRE_SIGNATURE", "1")
    status, _, err = moworld(monkeypatch, capsys, command, *rest, "--model", SHIPPED)
    assert status == 2 and "no signature" in err
    assert not (tmp_path / "out.mp4").exists()


def test_a_signed_folder_and_a_registered_model_pass_and_a_changed_one_does_not(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from moworld_ops.components.platform.registry import ModelRegistry
    from moworld_ops.components.platform.verification import verified_folder

    signing.sign(model, model.parent / "model.sig")
    assert verified_folder(str(model)) == model.resolve()
    for name in ("metrics", "features"):
        (tmp_path / name).mkdir()
    (tmp_path / "metrics" / "metrics.json").write_text('{"drift": 1.5}')
    (tmp_path / "features" / "revision.json").write_text('{"revision": "abc", "contract_version": "1.0.0"}')
    register(str(model), str(tmp_path / "metrics"), str(tmp_path / "features"), str(tmp_path / "out"), {"name": "hall"}, "run-1")
    stored = verified_folder("hall@1")
    assert (stored / INDEX).read_bytes() == (model / INDEX).read_bytes()
    assert stored == ModelRegistry().folder_of(ModelRegistry().find("hall@1"))
    change(stored / INDEX, height=32)
    for reference, words in (("hall@1", "not what was signed"), ("hall@2", "no such version"), ("hell@1", "hall")):
        status, _, err = moworld(monkeypatch, capsys, "play", "--port", 0, "--require-signature", "--model", reference)
        assert status == (1 if reference == "hall@1" else 2) and words in err and len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_model_that_is_int8_is_not_quantized_again(tmp_path: Path):
    """Pipeline `release` begins with the quantization of the student it is given."""
    (tmp_path / "data").mkdir()
    inputs = {"distilled": SHIPPED, "teacher": SHIPPED, "captioned": tmp_path / "data", "features": tmp_path / "data"}
    command = [sys.executable, "-c", "from moworld_ops.pipelines.cli.app import main; main()", "run", "release", "--profile", "test"]
    command += [part for name, path in inputs.items() for part in ("--set", f"inputs.{name}={path}")]
    done = subprocess.run(command, env={**os.environ, "MOWORLD_HOME": str(tmp_path / "home")}, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if "found w8a8 weights" in line]
    assert done.returncode == 2 and len(lines) == 1 and "quantize the distilled model, once" in lines[0], done.stderr
    assert "Traceback" not in done.stderr + done.stdout
