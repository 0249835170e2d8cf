"""The held-out protocol on a tiny feature store: baselines that can be computed by hand, and the same noise for all."""

import copy
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from moworld.data.features import FeatureStore, FeatureWriter
from moworld.errors import InputError
from moworld.evaluation.metrics import METRICS
from moworld.evaluation.protocol import (
    held_out_windows,
    measure_accuracy,
    obedience,
    pixel_mse,
    student_rollout,
    write_samples,
)
from moworld.evaluation.settings import BenchmarkSettings
from moworld.model.codec import StreamingCodec
from moworld.training.codec import psnr
from tests.moworld.evaluation.test_egomotion import walk_past_a_wall
from tests.moworld.worlds import tiny_batch, tiny_world

SETTINGS = BenchmarkSettings(windows=3, teacher_steps=2, samples=2, sample_chunks=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("protocol")
    batch = tiny_batch(13, batch=3)
    (folder / "features").mkdir()
    writer = FeatureWriter(folder / "features")
    for index, split in enumerate(("train", "held_out", "held_out")):
        row = {"clip_id": f"c{index}", "split": split, "scene": "s", "source": "game", "video_sha256": "0", "caption": "", "num_frames": 49}
        writer.add(row, {name: batch[name][index] for name in ("latents", "text", "c2w", "intrinsics")})
    writer.close()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = StreamingCodec(16, hidden=8, blocks=1)
    codec.save_pretrained(folder / "codec")
    world = tiny_world()
    world.experts.eval()
    world.codec_folder = folder / "codec"
    return FeatureStore(folder / "features"), world, codec


def test_windows_are_from_held_out_clips_and_depend_on_the_seed(made):
    store, _, _ = made
    batch, places = held_out_windows(store, 4, 6, 0)
    assert {clip for clip, _ in places} == {"c1", "c2"} and batch["latents"].shape == (6, 16, 4, 2, 4)
    assert held_out_windows(store, 4, 6, 0)[1] == places != held_out_windows(store, 4, 6, 1)[1]
    clip, start = places[0]
    assert torch.equal(batch["latents"][0], store.read_window(clip, start, 4)["latents"])


def test_without_held_out_clips_nothing_is_measured_on_others(made, tmp_path):
    store, world, _ = made
    training = copy.copy(store)
    training.clips = [row for row in store.clips if row.split == "train"]
    measured = (
        lambda: held_out_windows(training, 4, 6, 0),
        lambda: measure_accuracy(lambda _: world, training, SETTINGS, 5),
        lambda: write_samples(world, training, None, tmp_path, SETTINGS, 5),
    )
    for measure in measured:
        with pytest.raises(InputError, match=r"split held_out: found no clip \(train 1\)"):
            measure()
    assert not list(tmp_path.iterdir())


def test_the_last_frame_baseline_equals_its_definition(made):
    store, world, codec = made
    metrics = measure_accuracy(lambda _: world, store, SETTINGS, 5)
    batch, _ = held_out_windows(store, 4, 3, 5)
    repeated = batch["latents"][:, :, :1].expand_as(batch["latents"])
    with torch.no_grad():
        error = (codec.eval().decode(repeated) - codec.decode(batch["latents"]))[:, :, 1:].square().mean() / 4
    assert metrics["last_frame_mse"] == pytest.approx(float(error), rel=1e-5)
    assert metrics["last_frame_psnr"] == pytest.approx(psnr(float(error)), abs=1e-4)


def test_equal_models_have_equal_metrics_and_the_camera_matters(made):
    store, world, _ = made
    metrics = measure_accuracy(lambda _: world, store, SETTINGS, 5)
    assert metrics["int8_psnr_drop"] == 0 and metrics["student_next_chunk_psnr"] == metrics["student_fp32_next_chunk_psnr"]
    gain = psnr(metrics["teacher_next_chunk_mse"]) - psnr(metrics["teacher_next_chunk_mse_camera_zeroed"])
    assert metrics["teacher_camera_gain"] == pytest.approx(gain) and gain != 0
    assert measure_accuracy(lambda _: world, store, SETTINGS, 5) == metrics


def test_one_world_is_held_at_a_time(made):
    store, world, _ = made
    held: list[weakref.ref] = []

    def load(name: str):
        gc.collect()
        assert not any(each() for each in held), f"another world was held when {name} was loaded"
        loaded = copy.copy(world)
        held.append(weakref.ref(loaded))
        return loaded

    measure_accuracy(load, store, SETTINGS, 5)
    assert len(held) == 3


def test_equal_latents_have_no_error(made):
    store, _, codec = made
    latents = held_out_windows(store, 4, 2, 0)[0]["latents"]
    assert pixel_mse(codec, latents, latents) == 0


def test_samples_are_videos_of_equal_length_with_metrics(made, tmp_path):
    from moworld.video import read_frames

    store, world, _ = made
    (tmp_path / "samples").mkdir()
    found = write_samples(world, store, None, tmp_path, SETTINGS, 5)
    assert len(found["samples"]) == 2 and set(found) - {"samples"} <= set(METRICS) and len(found) == 10
    for row in found["samples"]:
        assert read_frames(tmp_path / row["real"]).shape == read_frames(tmp_path / row["generated"]).shape == (25, 16, 32, 3)


def test_no_samples_are_no_metrics(made, tmp_path):
    store, world, _ = made
    assert write_samples(world, store, None, tmp_path, SETTINGS.model_copy(update={"samples": 0}), 5) == {"samples": []}


def test_without_camera_a_rollout_does_not_depend_on_the_path(made):
    store, world, _ = made
    batch, _ = held_out_windows(store, 4, 2, 0)
    standing = {**batch, "c2w": torch.eye(4).expand_as(batch["c2w"])}
    with_camera, without = (
        [student_rollout(world, path, 3, camera=camera) for path in (batch, standing)] for camera in (True, False)
    )  # one chunk from one frame, so the history is the same
    assert not torch.equal(*with_camera) and torch.equal(*without)


def test_obedience_of_a_video_and_of_its_mirror_image():
    frames, c2w, intrinsics, depth = walk_past_a_wall(turns=[3.0, 2.0, -3.0, -2.0] * 4 + [3.0] * 4)
    batch = {"c2w": torch.as_tensor(c2w)[None], "intrinsics": torch.as_tensor(intrinsics).expand(1, len(frames), 4)}
    seen = obedience([frames], batch, [depth])
    assert seen["turning_correlation"] > 0.99 and seen["swapped_turns"] == 0
    assert seen["turning_gain"] == pytest.approx(1, abs=0.1) and seen["turning_error"] < 1
    mirrored = obedience([np.ascontiguousarray(frames[:, :, ::-1])], batch, [depth[:, :, ::-1]])
    assert mirrored["turning_correlation"] < -0.99 and mirrored["swapped_turns"] == 1
    assert mirrored["turning_gain"] == pytest.approx(-1, abs=0.1) and mirrored["turning_error"] == pytest.approx(2 * 12 / 5**0.5, rel=0.1)
