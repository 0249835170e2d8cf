"""`data check` opens the files that rows name: each fault is named, and a whole folder passes."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from moworld.data.clips import read_manifest, write_manifest
from moworld.data.features import FeatureWriter
from moworld.data.inspection import make_openers
from moworld.data.points import write_ply
from moworld.files import sha256_file
from moworld.video import write_video
from moworld_ops.data_contracts.load import FILE_KINDS, FOLDER
from moworld_ops.pipelines.cli.app import app
from tests.moworld.data.test_frames import make_clip


def check(path: Path, *arguments: str) -> tuple[int, dict]:
    called = CliRunner().invoke(app, ["data", "check", str(path), "--json", *arguments])
    return called.exit_code, json.loads(called.stdout) if called.stdout else {"error": str(called.exception)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one clip with every kind of file, which the contracts accept."""
    place = tmp_path / "clips"
    clip = make_clip(place, num_frames=13)
    write_video(place / "videos/a.mp4", np.random.default_rng(0).integers(0, 255, (13, 64, 64, 3), np.uint8), 24)
    for name in ("depth", "actions", "scenes", "points"):
        (place / name).mkdir()
    np.savez(place / "depth/a.npz", depth=np.zeros((13, 4, 4), np.uint16))
    for name in ("actions/a.json", "scenes/a.json"):
        (place / name).write_text("{}")
    write_ply(place / "points/a.ply", np.zeros((5, 3), np.float32), np.zeros((5, 3), np.uint8))
    write_manifest(place, [replace(
        clip, video="videos/a.mp4", height=64, width=64, num_frames=13, fps=24.0, video_sha256=sha256_file(place / "videos/a.mp4"),
        camera_sha256=sha256_file(place / str(clip.camera)), camera_origin="file", depth="depth/a.npz", actions="actions/a.json",
        scene_facts="scenes/a.json", points="points/a.ply", epipolar_error_px=0.1,
    )])  # fmt: skip
    return place


def test_a_whole_folder_passes_and_every_kind_of_file_has_an_opener(folder):
    assert set(make_openers()) == set(FILE_KINDS)
    for contract, count in (("clips", 4), ("geometry", 2)):
        status, report = check(folder, "--contract", contract)
        assert (status, report["accepted"], report["files"]) == (0, 1, count), report


def change(folder: Path, **columns) -> None:
    (clip,) = read_manifest(folder)
    write_manifest(folder, [replace(clip, **columns)])


def write(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def shorten(folder: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), np.uint8)
    write_video(folder / "videos/a.mp4", frames, 24)
    change(folder, video_sha256=sha256_file(folder / "videos/a.mp4"))


def cut(name: str, kept: float = 0.6):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[: int((folder / name).stat().st_size * kept)])


def link_out(folder: Path) -> None:
    (folder.parent / "b.mp4").write_bytes((folder / "videos/a.mp4").read_bytes())
    (folder / "videos/a.mp4").unlink()
    (folder / "videos/a.mp4").symlink_to(folder.parent / "b.mp4")


def bomb(folder: Path) -> None:
    """A file of 0.8 MB that unpacks to 800 MB."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (10_000, 100, 100)}
    with zipfile.ZipFile(folder / "depth/a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("depth.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(800):
            file.write(bytes(1_000_000))


@pytest.mark.parametrize(
    ("contract", "spoil", "rules", "words"),
    [
        ("clips", lambda folder: (folder / "videos/a.mp4").unlink(), ["video-file"], "no file of the directory"),
        ("clips", write("videos/a.mp4", b"garbage"), ["video-file", "video_sha256-matches"], "videos/a.mp4: "),
        ("clips", write("videos/a.mp4", b""), ["video-file", "video_sha256-matches"], "videos/a.mp4: "),
        ("clips", cut("videos/a.mp4"), ["video-file", "video_sha256-matches"], "videos/a.mp4: "),
        ("clips", shorten, ["video-file"], "12 frames that decode, not 13"),
        ("clips", lambda folder: change(folder, width=62), ["video-file"], "64x64 pixels, not 62x64"),
        ("clips", lambda folder: change(folder, video="../clips/../b.mp4"), ["video-file"], "outside the directory"),
        ("clips", lambda folder: change(folder, video="/etc/hostname"), ["video-file"], "outside the directory"),
        ("clips", lambda folder: change(folder, video=""), ["video-file", "video-length"], "outside the directory"),
        ("clips", lambda folder: change(folder, video="v" * 5000), ["video-file"], "File name too long"),
        ("clips", link_out, ["video-file"], "outside the directory"),
        ("clips", lambda folder: change(folder, video_sha256="0" * 64), ["video_sha256-matches"], "000000000000, and videos/a.mp4 has"),
        ("clips", write("depth/a.npz", b"no"), ["depth-file"], "depth/a.npz: "),
        ("clips", lambda folder: np.savez(folder / "depth/a.npz", depth=np.zeros((9, 2, 2))), ["depth-file"], "9 maps for 13 frames"),
        ("clips", lambda folder: np.savez(folder / "depth/a.npz", depth=np.array([{}], object)), ["depth-file"], "dtype object"),
        ("clips", bomb, ["depth-file"], "800000128 bytes"),
        ("clips", write("actions/a.json", b"{"), ["actions-file"], "not JSON"),
        ("geometry", write("cameras/a.txt", b"x\n1 2\n"), ["camera-file", "camera_sha256-matches"], "cameras/a.txt: "),
        ("geometry", cut("points/a.ply", 0.9), ["points-file"], "points, not 5"),
    ],
)  # fmt: skip
def test_a_fault_of_a_file_rejects_its_row(folder, contract, spoil, rules, words):
    spoil(folder)
    status, report = check(folder, "--contract", contract)
    assert status == 1 and sorted(f["rule"] for f in report["failures"]) == rules
    assert any(words in str(f["value"]) for f in report["failures"]), report["failures"]
    unopened = [rule for rule in rules if not rule.endswith(("-file", "-matches"))]
    assert check(folder, "--contract", contract, "--no-open")[0] == bool(unopened)


def test_rows_elsewhere_are_opened_only_if_their_directory_is_named(folder, tmp_path):
    (tmp_path / "rows.parquet").write_bytes((folder / "manifest.parquet").read_bytes())
    (folder / "videos/a.mp4").unlink()
    assert check(tmp_path / "rows.parquet")[0] == 0
    assert check(tmp_path / "rows.parquet", "--files", str(folder))[0] == 1
    assert "no such directory" in check(tmp_path / "rows.parquet", "--files", str(tmp_path / "none"))[1]["error"]


def test_a_contract_file_is_used_and_a_faulty_one_is_refused(folder, tmp_path):
    text = (FOLDER / "clips.odcs.yaml").read_text()
    for name, content, status in (("same", text, 0), ("more", text.replace("minimum: 13", "minimum: 14"), 1)):
        (tmp_path / f"{name}.yaml").write_text(content, encoding="utf-8-sig")
        assert check(folder, "--contract", str(tmp_path / f"{name}.yaml"))[0] == status
    (tmp_path / "bad.yaml").write_bytes(b"a: \xff")
    for name, words in (("bad.yaml", "not UTF-8"), ("none.yaml", "No such file"), ("", "directory")):
        assert words in check(folder, "--contract", f"{tmp_path}/{name}")[1]["error"]


def test_no_row_fails_unless_the_contract_allows_it(folder, tmp_path):
    write_manifest(folder, [])
    status, report = check(folder)
    assert (status, report["rows"], [entry["rule"] for entry in report["batch"]]) == (1, 0, ["not-empty"])
    allowed = "    quality: [{id: rows, metric: rowCount, mustBeGreaterOrEqualTo: 0}]\n    properties:"
    (tmp_path / "c.yaml").write_text((FOLDER / "clips.odcs.yaml").read_text().replace("    properties:", allowed))
    assert check(folder, "--contract", str(tmp_path / "c.yaml"))[0] == 0


def features(folder: Path) -> Path:
    folder.mkdir()
    writer = FeatureWriter(folder)
    for name in "ab":
        row = {"clip_id": name, "split": "train", "scene": name, "source": "video", "caption": "", "num_frames": 13, "video_sha256": name}
        tensors = {"latents": torch.zeros(2, 4, 2, 2), "text": torch.zeros(3, 4), "c2w": torch.zeros(13, 4, 4), "intrinsics": torch.zeros(13, 4)}
        writer.add(row, tensors)
    writer.close()
    return folder


def test_shards_of_features_are_opened(tmp_path):
    place = features(tmp_path / "features")
    assert check(place, "--contract", "features")[1]["files"] == 1 and check(place, "--contract", "features")[0] == 0
    shard = next(place.glob("*.safetensors"))
    content = shard.read_bytes()
    for changed, words in ((content[:-8] + b"\1" * 8, "SHA-256"), (content[:200], "SHA-256")):
        shard.write_bytes(changed)
        status, report = check(place, "--contract", "features")
        assert status == 1 and report["quarantined"] == 2 and words in report["failures"][0]["value"]
    (place / "sha256.json").unlink()
    status, report = check(place, "--contract", "features")
    assert status == 1 and "shard-00000.safetensors: " in report["failures"][0]["value"]
