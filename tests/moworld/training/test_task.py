"""Identity of a training: settings that differ mean another task; an input that differs is refused by name."""

import pytest

from moworld.data.features import FeatureWriter
from moworld.errors import InputError
from moworld.files import HASHES, content_hash, read_json, sha256_file, sha256_tree
from moworld.training.task import is_same, task_of
from tests.moworld.worlds import tiny_batch


def test_a_changed_file_of_an_input_is_refused_by_name_and_other_settings_are_another_task(tmp_path):
    for name in ("teacher", "features"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    inputs = {"teacher": tmp_path / "teacher", "features": tmp_path / "features", "previous": None}
    task = task_of({"seed": 1}, **inputs)
    assert is_same(task, task_of({"seed": 1}, **inputs), tmp_path) and not is_same(task, task_of({"seed": 2}, **inputs), tmp_path)
    (tmp_path / "teacher" / "file").write_text("other")
    assert not is_same(task, task_of({"seed": 2}, **inputs), tmp_path)
    with pytest.raises(InputError, match=r"inputs\.teacher"):
        is_same(task, task_of({"seed": 1}, **inputs), tmp_path / "step-1")
    with pytest.raises(InputError, match=r"inputs\.features.*expected none"):
        is_same(task, task_of({"seed": 1}, teacher=tmp_path / "teacher"), tmp_path / "step-1")


def test_the_hash_of_features_is_that_of_their_content_without_reading_the_shards(tmp_path):
    def write(name: str, seed: int):
        (tmp_path / name).mkdir()
        writer, batch = FeatureWriter(tmp_path / name, shard_bytes=1), tiny_batch(7, 1)
        for number in range(2):
            row = {"clip_id": f"c{number}", "split": "train", "scene": "", "source": "", "caption": "", "num_frames": 25, "video_sha256": ""}
            latents = tiny_batch(7, 1, seed=seed + number)["latents"][0]
            writer.add(row, {**{key: batch[key][0] for key in ("text", "c2w", "intrinsics")}, "latents": latents})
        writer.close()
        return tmp_path / name

    folder = write("one", 0)
    assert read_json(folder / HASHES) == {path.name: sha256_file(path) for path in folder.glob("*.safetensors")}
    assert len(read_json(folder / HASHES)) == 2
    assert content_hash(folder) == sha256_tree(folder) == content_hash(write("again", 0)) != content_hash(write("other", 5))
    next(folder.glob("*.safetensors")).write_bytes(b"")
    assert content_hash(folder) != sha256_tree(folder)  # what the docstring says
