"""Protocol `walk`: measures on made-up videos whose values are known, and the whole protocol on a tiny model."""

import json

import numpy as np
import pytest

from moworld.data.game_walks import SeenWalk
from moworld.evaluation import walk
from moworld.evaluation.walk_report import evaluate_walks, table
from tests.moworld.inference.worlds import served_world

SIZE = (32, 48)


def noise(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, *SIZE, 3), dtype=np.uint8)


def seen(frames: np.ndarray) -> SeenWalk:
    c2w = np.broadcast_to(np.eye(4), (len(frames), 4, 4))
    return SeenWalk("MAP07", frames, c2w, np.ones((len(frames), *SIZE), np.float32))


def test_the_engines_own_pictures_get_the_best_scores() -> None:
    videos = [noise(61, seed) for seed in range(2)]
    walks = walk.Walks([seen(v) for v in videos], [seen(v) for v in videos], [seen(v) for v in videos], ["w"] * 60)
    same = walk.measure_pictures({"planned": videos, "away": videos}, walks)
    assert same["psnr_61"] > 100 and same["ssim_61"] == pytest.approx(1) and same["return_psnr"] > 100
    other = walk.measure_pictures({"planned": videos[::-1]}, walks)
    assert other["psnr_61"] == pytest.approx(7.78, abs=0.2) and other["ssim_61"] < 0.1


def test_blocks_and_groups_of_a_codec_are_found_and_smooth_video_has_none() -> None:
    ramp = np.arange(100) * 2
    smooth = np.broadcast_to((ramp[:, None, None, None] % 200 + np.arange(64)[None, None, :, None]).astype(np.uint8), (100, 48, 64, 3))
    plain = noise(41, 3)
    assert walk.block_change([plain]) == pytest.approx(1, abs=0.05) and walk.group_change([plain]) == pytest.approx(1, abs=0.05)
    blocky = plain[:, ::8, ::8].repeat(8, 1).repeat(8, 2) // 2 + plain // 4
    assert walk.block_change([blocky]) > 1.5
    stuttering = np.concatenate([plain[:1], plain[1::4].repeat(4, 0)])
    assert walk.group_change([stuttering // 2 + plain[: len(stuttering)] // 8]) > 3
    assert walk.group_change([smooth[:60]]) == pytest.approx(1, abs=0.1) and walk.group_change([plain[:1].repeat(9, 0)]) is None


def test_the_protocol_measures_a_model_beside_its_baselines_and_reuses_what_it_measured(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "model"
    served_world(tmp_path / "codec").save(folder)
    settings = walk.WalkSettings(starts=2, straight=50, planned=60, away=12)
    results = evaluate_walks({"tiny": str(folder)}, settings, [0], tmp_path / "out")
    baselines = {"first frame repeated", "first frame warped by exact depth", "engine through the codec",
                 "engine through PCA of as many channels", "engine"}  # fmt: skip
    assert set(results) == {"tiny", "tiny, cameras zeroed", *baselines}
    rows = table(results)
    warped, repeated = (rows[f"first frame {how}"]["PSNR at 61, dB"].mean for how in ("warped by exact depth", "repeated"))
    assert warped > repeated > 5
    through_pca = rows["engine through PCA of as many channels"]["PSNR at 61, dB"].mean
    assert through_pca > rows["engine through the codec"]["PSNR at 61, dB"].mean + 3, "the tiny codec has random weights"
    looking = [rows[name]["looking"].mean for name in ("tiny", "engine through the codec")]
    assert np.isfinite(looking).all() and rows["tiny"]["at 300 with one noise, dB"].mean > 5
    assert rows["tiny"]["turning"] and not rows["first frame repeated"]["turning"], "a repeated frame has no motion to correlate"
    page = (tmp_path / "out" / "walk.html").read_text()
    assert "engine through the codec" in page and "data:image/png;base64," in page
    assert json.loads((tmp_path / "out" / "walk.json").read_text())["seeds"] == [0]
    monkeypatch.setattr("moworld.evaluation.walk_report.measure_walks", lambda *_: pytest.fail("measured again"))
    assert evaluate_walks({"tiny": str(folder)}, settings, [0], tmp_path / "out") == results
