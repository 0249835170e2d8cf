"""Protocol splats on one short walk of a held-out level: what is held out, what is stored, and that it resumes."""

import numpy as np
import pytest

from moworld.applications.splats.score import ScoreSettings, distances, nearest, record, split_of
from moworld.applications.splats.score_report import evaluate_splats, table
from moworld.applications.splats.settings import FitSettings
from moworld.camera import se3
from moworld.files import read_json, write_json

SETTINGS = ScoreSettings(walks=1, frames=48, beside=16, fit=FitSettings(steps=30, gaussians=800, height=48))


def walked(positions: list[float]) -> np.ndarray:
    return se3.rigid(np.broadcast_to(np.eye(3), (len(positions), 3, 3)), np.array([[0.0, 0.0, z] for z in positions]))


def test_chunks_and_places_seen_again_are_held_out_and_poses_of_the_fit_are_not():
    out = np.arange(72) * 0.02
    c2w = walked([*out, *(out[-1] - np.arange(1, 37) * 0.02 + 0.01)])  # there, and back between the same places
    found = split_of(c2w, ScoreSettings(frames=107, chunk=6))
    assert (found.train // 6 % 4 != 2).all() and found.train.max() == 71
    assert found.chunks.tolist() == [number for number in range(72) if number // 6 % 4 == 2]
    assert set(found.revisits) == set(range(72, 108))
    same = walked([*out, *out[::-1][:36]])  # back over the very same poses: only those of held-out chunks are new
    again = split_of(same, ScoreSettings(frames=107, chunk=6))
    assert all(same[number, 2, 3] in same[again.chunks, 2, 3] for number in again.revisits) and 0 < len(again.revisits) < 36
    stays = split_of(walked([0.0] * 72), ScoreSettings(chunk=6))
    assert not len(stays.chunks) and not len(stays.revisits)


def test_the_nearest_pose_weighs_distance_and_angle():
    turned = np.eye(4)
    turned[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    known = np.stack([turned, walked([0.1])[0], walked([0.4])[0]])
    assert nearest(np.eye(4), known) == 1
    apart, angles = distances(np.eye(4), known)
    assert apart.tolist() == pytest.approx([0, 0.1, 0.4]) and angles.tolist() == pytest.approx([90, 0, 0])


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("splats")
    return folder, evaluate_splats(None, SETTINGS, [0], folder)


def test_views_beside_the_path_are_where_the_engine_says():
    seen = record(SETTINGS, (48, 80), 0, 0)
    assert len(seen.beside.frames) == len(seen.moved_from) >= 3 and seen.walk.frames.shape == (48, 48, 80, 3)
    for pose, number in zip(seen.beside.c2w, seen.moved_from, strict=True):
        from_path = (se3.invert(seen.walk.c2w[number]) @ pose)[:3, 3] * 540
        assert 30 < abs(from_path[0]) < 66 and abs(from_path[2]) < 3
        assert float(se3.rotation_angle_degrees(seen.walk.c2w[number][:3, :3].T @ pose[:3, :3])) == pytest.approx(15, abs=1)
    assert seen.lens.tolist() == pytest.approx([0.5, 1.0, 0.5, 0.5])


def test_each_set_is_measured_by_each_method_and_a_resumed_run_measures_nothing_again(scored):
    folder, result = scored
    (values,) = result["rows"]["recorded"]
    assert values["off_path_frames"] >= 3 and values["chunks_frames"] > 0
    for name in ("splats", "previous", "warp", "warp_exact"):
        assert 5 < values[f"off_path_psnr_{name}"] < 60 and 0 < values[f"off_path_ssim_{name}"] <= 1
    assert values["off_path_psnr_splats"] > values["off_path_psnr_previous"]
    assert (folder / "sheets" / "recorded-0-0.png").is_file()
    rows = table(result)
    assert {row[2] for row in rows} == {
        "splats", "previous frame repeated", "nearest frame warped by its depth", "nearest frame warped by the target's exact depth"
    }  # fmt: skip
    stored = folder / "measured" / "recorded-0-0.json"
    record_of = read_json(stored)
    record_of["values"]["off_path_psnr_splats"] = 99.0
    write_json(stored, record_of)
    assert evaluate_splats(None, SETTINGS, [0], folder)["rows"]["recorded"][0]["off_path_psnr_splats"] == 99.0
