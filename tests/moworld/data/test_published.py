"""Feature files of the published base: read without running anything, rewritten as shards that the loader reads."""

import json
import os
from pathlib import Path

import pytest
import torch

from moworld.camera.controls import controls_to_c2w
from moworld.camera.se3 import invert
from moworld.data.features import FeatureStore
from moworld.data.loader import batches
from moworld.data.published import import_features
from moworld.data.settings import DataSettings
from moworld.errors import InputError

WORLD = {"height": 16, "width": 32, "fps": 24.0, "text": {"kind": "umt5", "length": 4}}


def write(folder: Path, name: str = "a.pth", **changes) -> dict[str, torch.Tensor]:
    """A feature file of 13 frames as the release has them: pixels' intrinsics, world-to-camera poses, a batch dim of one."""
    c2w = torch.as_tensor(controls_to_c2w("wl*20"))[:13]
    held = {
        "input_latents": torch.randn(1, 16, 4, 2, 4), "context": torch.randn(1, 4, 8), "y": torch.randn(1, 20, 4, 2, 4),
        "cam_from_worlds": torch.as_tensor(invert(c2w.numpy()))[:, :3], "intrinsics": torch.tensor([[500.0, 0, 416], [0, 480, 240], [0, 0, 1]]),
        "ori_h": 480, "ori_w": 832, "start_frame": 0, "end_frame": 13,
    }  # fmt: skip
    held |= changes
    torch.save({key: value for key, value in held.items() if value is not None}, folder / name)
    (folder / "list.jsonl").write_text(json.dumps({"file": name, "sample_num_frames": 13, "sample_size": "13x16x32"}) + "\n")
    (folder / "vae").mkdir(exist_ok=True)
    return held


def test_what_is_imported_is_what_was_there_in_our_units(tmp_path):
    held = write(tmp_path)
    assert import_features(tmp_path / "list.jsonl", tmp_path / "out", WORLD, tmp_path / "vae") == {"clips": 1, "frames": 13}
    store = FeatureStore(tmp_path / "out")
    (row,) = store.clips
    window = store.read_window(row.clip_id, 0, 4)
    torch.testing.assert_close(window["latents"], held["input_latents"][0].half().float())
    torch.testing.assert_close(window["text"], held["context"][0].half().float())
    torch.testing.assert_close(window["intrinsics"][5], torch.tensor([500 / 832, 1.0, 0.5, 0.5]))
    w2c = torch.linalg.inv(window["c2w"])
    torch.testing.assert_close(w2c[0], torch.eye(4), rtol=0, atol=1e-5)
    assert float(w2c[1:, :3, 3].square().mean().sqrt()) == pytest.approx(2, rel=1e-3)  # s of the release: root mean square 2
    torch.testing.assert_close(w2c[:, :3, :3], held["cam_from_worlds"][:, :, :3].float(), rtol=0, atol=1e-5)
    assert next(batches(store, "train", 3, 1, 0))["latents"].shape == (1, 16, 3, 2, 4)
    assert json.loads((tmp_path / "out" / "world.json").read_text()) == WORLD


def test_files_are_split_by_source_where_no_split_is_given(tmp_path):
    names = [f"{source}_{part}.pth" for source in ("park", "yard", "street") for part in range(2)]
    for name in names:
        write(tmp_path, name)
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"file": name}) + "\n" for name in names))
    settings = DataSettings(source_pattern=r"([^/_]+)_\d+\.pth$", held_out_videos=("yard",), validation_share=0)
    import_features(tmp_path / "list.jsonl", tmp_path / "out", WORLD, tmp_path / "vae", settings)
    splits = {row.scene: row.split for row in FeatureStore(tmp_path / "out").clips}
    assert splits == {name.removesuffix(".pth"): "held_out" if name.startswith("yard") else "train" for name in names}
    with pytest.raises(InputError, match="found hold_out, expected one of train, validation, held_out"):
        import_features(tmp_path / "list.jsonl", tmp_path / "wrong", WORLD, tmp_path / "vae", "hold_out")


class Harm:
    def __reduce__(self):
        return os.system, ("touch /tmp/moworld-was-run",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": Harm()}, "a file of tensors and plain values"),
        ({"context": None}, "keys"),
        ({"input_latents": torch.randn(2, 16, 4, 2, 4)}, r"input_latents: found shape \(2, 16, 4, 2, 4\)"),
        ({"intrinsics": torch.randn(13, 5)}, "intrinsics: found shape"),
        ({"cam_from_worlds": torch.eye(4).expand(12, 4, 4)}, "12 poses for 4 latent frames"),
    ],
    ids=["pickled code", "missing", "two clips", "lens", "poses"],
)
def test_what_does_not_fit_is_named_and_nothing_is_written_or_run(tmp_path, changes, words):
    write(tmp_path, **changes)
    with pytest.raises(InputError, match=words):
        import_features(tmp_path / "list.jsonl", tmp_path / "out", WORLD, tmp_path / "vae")
    assert not (tmp_path / "out").exists() and not Path("/tmp/moworld-was-run").exists()


@pytest.mark.parametrize(
    ("line", "words"), [("{", "line 1"), ('{"sample_size": 1}', 'the key "file"'), ("", "no line"), ('{"file": "b.pth"}', "no such file")]
)
def test_a_list_that_is_wrong_is_named_by_its_line(tmp_path, line, words):
    write(tmp_path)
    (tmp_path / "list.jsonl").write_text(line)
    with pytest.raises(InputError, match=words):
        import_features(tmp_path / "list.jsonl", tmp_path / "out", WORLD, tmp_path / "vae")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cam_from_worlds": torch.eye(4).repeat(13, 1, 1).index_fill(0, torch.tensor([4]), float("nan"))}, "row 4: found NaN or infinity"),
        ({"cam_from_worlds": torch.eye(4).repeat(13, 1, 1) * torch.tensor([2.0, 1, 1, 1])}, "row 0: found a matrix that is not a rotation"),
        ({"cam_from_worlds": torch.eye(4).repeat(13, 1, 1) * torch.tensor([-1.0, 1, 1, 1])}, r"not a rotation \(determinant -1\)"),
        ({"ori_w": None}, "intrinsics in pixels, ori_w None, ori_h 480"),
        ({"intrinsics": torch.tensor([-0.8, 1.4, 0.5, 0.5])}, "row 0: found intrinsics"),
        ({"input_latents": torch.full((16, 4, 2, 4), float("nan"))}, "input_latents: found 512 values that are NaN"),
        ({"input_latents": torch.full((16, 4, 2, 4), 1e6)}, "input_latents: found 512 values that are NaN or beyond float16"),
        ({"context": torch.full((4, 8), float("inf"))}, "context: found 32 values"),
        ({"input_latents": torch.randn(16, 4, 4, 4)}, "found latents of 4x4, expected 4x2 for pictures of 32x16"),
    ],
)
def test_values_that_would_harm_training_are_refused(tmp_path, changes, words):
    write(tmp_path, **changes)
    with pytest.raises(InputError, match=words):
        import_features(tmp_path / "list.jsonl", tmp_path / "out", WORLD, tmp_path / "vae")
    assert not (tmp_path / "out").exists()
