"""`rollout`: formats, records and their signatures, replay, and inputs from elsewhere; `release verify` of a video."""

import base64
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moworld.camera import controls_to_c2w
from moworld.files import sha256_file, sha256_tree
from moworld.video import read_frames, video_info
from moworld_ops.components.platform import keys
from moworld_ops.components.platform.content_credentials import is_installed
from moworld_ops.components.register.step import register
from tests.moworld.inference.worlds import picture, served_world
from tests.moworld_ops.pipelines.command import Command


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models: `one`, and `two` with other weights."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        served_world(folder / "codec", seed=seed).save(folder / name)
    return folder


@pytest.fixture
def moworld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    Image.fromarray(picture()).save(tmp_path / "first.png")
    for name in (keys.KEY, keys.PASSWORD, keys.PUBLIC, "MLFLOW_TRACKING_URI", "MOWORLD_REQUIRE_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "home"))
    return Command(tmp_path, monkeypatch, capsys)


def roll(moworld: Command, models: Path, out: str = "v.mp4", *more: object, model: str = "one") -> dict:
    done = moworld("rollout", "--image", "first.png", "--out", out, "--model", models / model, "--backend", "torch", "--json", *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def line(done: object, status: int) -> str:
    """The one line of a refusal."""
    assert done.returncode == status and done.stdout == "" and len(done.stderr.strip().splitlines()) == 1, (done.returncode, done.stderr)  # type: ignore[attr-defined]
    return str(done.stderr)  # type: ignore[attr-defined]


def edit(path: Path, change: Callable[[dict], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_the_suffix_is_the_format_and_a_count_is_frames_of_whole_chunks(moworld: Command, models: Path, tmp_path: Path):
    for name, codec in (("v.gif", "gif"), ("v.webm", "vp9")):
        facts = roll(moworld, models, name, "--actions", "w*1")
        assert (facts["frames"], facts["frames_without_keys"]) == (13, 11) and video_info(tmp_path / name).codec == codec
        assert len(read_frames(tmp_path / name)) == 13
    for name in ("v.avi", "v"):
        assert ".mp4 .webm .gif" in line(moworld("rollout", "--image", "first.png", "--out", name, "--model", models / "one"), 2)
    assert "count of frames" in line(moworld("rollout", "--image", "first.png", "--out", "x.mp4", "--model", models / "one", "--actions", "w*"), 2)
    help_ = " ".join(moworld("rollout", "--help").stdout.split())
    assert "whole chunks" in help_ and "first frame and 12 more" in help_


def test_a_record_describes_the_video_and_is_marked_as_unsigned_without_a_key(moworld: Command, models: Path, tmp_path: Path):
    facts = roll(moworld, models, "v.mp4", "--actions", "w*20", "--seed", "7")
    values = json.loads((tmp_path / "v.mp4.json").read_text())
    record = values["record"]
    assert not facts["signed"] and values["signature"] is None and values["status"].startswith("unsigned")
    assert record["sha256"] == sha256_file(tmp_path / "v.mp4") and record["model"]["sha256"] == sha256_tree(models / "one")
    assert (record["controls"]["actions"], record["controls"]["seed"]) == ("w*20", 7) and len(record["frames"]["chunks"]) == 3
    assert record["controls"]["picture_sha256"] == sha256_file(tmp_path / "first.png")
    assert not (tmp_path / "home" / "keys").exists()  # no key is made
    assert "anyone could have written" in line(moworld("release", "verify", "v.mp4"), 1)
    for name in ("v.mp4", "v.mp4.json"):
        done = moworld("release", "verify", name, "--unsigned")
        assert done.returncode == 0 and "UNSIGNED" in done.stdout
    (tmp_path / "v.mp4").write_bytes((tmp_path / "v.mp4").read_bytes() + b"x")
    assert "sha256" in line(moworld("release", "verify", "v.mp4", "--unsigned"), 1)


CHANGES: dict[str, Callable[[dict], object]] = {
    "another seed": lambda values: values["record"]["controls"].update(seed=8),
    "another model": lambda values: values["record"]["model"].update(sha256="0" * 64),
    "no signature": lambda values: values.update(signature=None, status="unsigned"),
    "a signature of something else": lambda values: values["signature"].update(value=keys.encode(keys.sign(b"something else")[0])),
    "a signature that is none": lambda values: values["signature"].update(value="AAAA"),
    "a key that nobody trusts": lambda values: values["signature"].update(key="0" * 64),
}


def test_a_signed_record_is_verified_and_a_changed_one_is_not(moworld: Command, models: Path, tmp_path: Path):
    keys.signing_key()  # as the first registration makes it
    assert roll(moworld, models, "v.mp4", "--actions", "w*1")["signed"]
    whole = (tmp_path / "v.mp4.json").read_bytes()
    done = moworld("release", "verify", "v.mp4")
    assert done.returncode == 0 and "signed by key" in done.stdout, done.stderr
    facts = json.loads(moworld("release", "verify", "v.mp4.json", "--json").stdout)
    assert facts["signer"] == keys.signing_key()[1].fingerprint and facts["frames"] == 13 and facts["model_registered"] is False
    credentials = facts["content_credentials"]  # None without the extra c2pa
    assert (credentials is not None) == is_installed()
    assert credentials is None or (credentials["signer"], credentials["facts"]["frames"]) == (facts["signer"], 13)
    for name, change in CHANGES.items():
        edit(tmp_path / "v.mp4.json", change)
        assert "signature" in line(moworld("release", "verify", "v.mp4"), 1), name
        (tmp_path / "v.mp4.json").write_bytes(whole)
    other = tmp_path / "elsewhere"
    assert "no public key" in line(moworld("release", "verify", "v.mp4", MOWORLD_HOME=str(other)), 2)
    assert "openssl" in line(moworld("rollout", "--image", "first.png", "--out", "w.mp4", "--model", models / "one", MOWORLD_SIGNING_KEY="first.png"), 2)
    assert not (tmp_path / "w.mp4").exists()


RECORDS: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda path: path.write_text("{"),
    "a list": lambda path: path.write_text("[]"),
    "deep JSON": lambda path: path.write_text("[" * 100_000),
    "a long integer": lambda path: path.write_text('{"record": ' + "9" * 5000 + "}"),
    "nothing": lambda path: path.write_text("{}"),
    "another format": lambda path: edit(path, lambda values: values["record"].update(format="moworld-provenance/9")),
    "NaN frames per second": lambda path: edit(path, lambda values: values["record"]["frames"].update(fps=float("nan"))),
    "an unknown key": lambda path: edit(path, lambda values: values["record"].update(more=1)),
    "a digest that is none": lambda path: edit(path, lambda values: values["record"].update(sha256="../x")),
    "a picture that is none": lambda path: edit(path, lambda values: values["record"]["controls"].update(picture="!!")),
    "a large file": lambda path: os.truncate(path, 65 * 2**20),
}


def test_what_is_no_record_is_one_line_and_is_never_replaced(moworld: Command, models: Path, tmp_path: Path):
    roll(moworld, models, "v.mp4", "--actions", "w*1")
    whole = (tmp_path / "v.mp4.json").read_bytes()
    for name, change in RECORDS.items():
        change(tmp_path / "v.mp4.json")
        for command in (("release", "verify", "v.mp4", "--unsigned"), ("rollout", "--replay", "v.mp4", "--model", models / "one")):
            assert "v.mp4.json" in line(moworld(*command), 2), name
        (tmp_path / "v.mp4.json").write_bytes(whole)
    (tmp_path / "w.mp4.json").write_text('{"mine": 1}')
    assert "w.mp4.json" in line(moworld("rollout", "--image", "first.png", "--out", "w.mp4", "--model", models / "one", "--backend", "torch"), 2)
    assert (tmp_path / "w.mp4.json").read_text() == '{"mine": 1}' and not (tmp_path / "w.mp4").exists()
    (tmp_path / "v.mp4.json").unlink()
    assert "v.mp4.json" in line(moworld("release", "verify", "v.mp4"), 2)


@pytest.mark.parametrize("controls", ["keys", "poses"])
def test_a_replay_by_the_same_model_gives_the_same_frames(moworld: Command, models: Path, tmp_path: Path, controls: str):
    np.save(tmp_path / "poses.npy", controls_to_c2w("wl*24"))
    np.save(tmp_path / "intrinsics.npy", np.array([0.5, 0.9, 0.5, 0.5]))
    more = ("--actions", "wl*20") if controls == "keys" else ("--poses", "poses.npy")
    roll(moworld, models, "v.mp4", *more, "--seed", "3")
    shutil.copytree(models / "one", tmp_path / "copy")  # the digest counts, not the path
    done = moworld("rollout", "--replay", "v.mp4", "--model", "copy", "--out", "both.mp4", "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0 and facts["same_model"] and facts["same_frames"] and facts["equal_chunks"] == facts["chunks"] == 3
    assert read_frames(tmp_path / "both.mp4").shape == (25, 16, 64, 3) and facts["psnr_to_recorded_video"]["mean"] > 12  # 4:2:0 of noise
    (tmp_path / "v.mp4").unlink()  # the record alone is enough for the digests
    assert json.loads(moworld("rollout", "--replay", "v.mp4.json", "--model", "copy", "--json").stdout)["same_frames"]
    edit(tmp_path / "v.mp4.json", lambda values: values["record"]["controls"].update(seed=4))
    assert "other frames from chunk 1 of 2 on" in line(moworld("rollout", "--replay", "v.mp4.json", "--model", "copy"), 1)
    assert "which this machine does not have" in line(moworld("rollout", "--replay", "v.mp4.json"), 2)


def test_a_candidate_is_put_beside_the_recorded_video(moworld: Command, models: Path, tmp_path: Path):
    roll(moworld, models, "v.mp4", "--actions", "wl*24")
    done = moworld("rollout", "--replay", "v.mp4", "--model", models / "two", "--out", "both.mp4", "--json")
    facts, both = json.loads(done.stdout), read_frames(tmp_path / "both.mp4")
    assert not facts["same_model"] and not facts["same_frames"] and facts["equal_chunks"] == 1  # the first frame
    assert facts["recorded_model"]["sha256"] == sha256_tree(models / "one") and facts["model"]["sha256"] == sha256_tree(models / "two")
    psnr = facts["psnr_to_recorded_video"]
    assert len(psnr["chunks"]) == 3 and psnr["chunks"][0] > psnr["chunks"][-1] and psnr["frames"] == 25
    left = 10 * np.log10(255**2 / np.square(both[:, :, :32].astype(float) - read_frames(tmp_path / "v.mp4")).mean())
    right = 10 * np.log10(255**2 / np.square(both[:, :, 32:].astype(float) - read_frames(tmp_path / "v.mp4")).mean())
    assert left > right + 3
    for extra in (("--image", "first.png"), ("--poses", "poses.npy")):
        assert "--replay" in line(moworld("rollout", "--replay", "v.mp4", *extra), 2)


def test_a_record_of_a_registered_model_has_its_name_and_data_and_is_compared_with_the_registry(moworld: Command, models: Path, tmp_path: Path):
    for name in ("metrics", "features"):
        (tmp_path / name).mkdir()
    (tmp_path / "metrics" / "metrics.json").write_text('{"drift": 1.5}')
    (tmp_path / "features" / "revision.json").write_text('{"revision": "abc", "contract_version": "1.0.0"}')
    register(str(models / "one"), str(tmp_path / "metrics"), str(tmp_path / "features"), str(tmp_path / "out"), {"name": "hall"}, "run-1")
    done = moworld("rollout", "--image", "first.png", "--out", "v.mp4", "--model", "hall@candidate", "--backend", "torch", "--actions", "w*1")
    assert done.returncode == 0 and ": signed" in done.stdout, done.stderr
    model = json.loads((tmp_path / "v.mp4.json").read_text())["record"]["model"]
    assert (model["name"], model["version"], model["data_revision"], model["signed_by"]) == ("hall", "1", "abc", keys.signing_key()[1].fingerprint)
    done = moworld("release", "verify", "v.mp4")
    assert done.returncode == 0 and "hall version 1 (as registered, data abc)" in done.stdout, done.stderr
    assert moworld("rollout", "--replay", "v.mp4").stdout.startswith("the same frames")  # the model is found by name
    for field in ("sha256", "data_revision"):  # signed by a trusted key, and yet not of this registry
        values = json.loads((tmp_path / "v.mp4.json").read_text())
        values["record"]["model"][field] = "0" * 64
        from moworld.inference.provenance import signed_bytes

        values["signature"]["value"] = keys.encode(keys.sign(signed_bytes(values["record"]))[0])
        (tmp_path / "w.mp4.json").write_text(json.dumps(values))
        shutil.copyfile(tmp_path / "v.mp4", tmp_path / "w.mp4")
        assert f"model.{field}" in line(moworld("release", "verify", "w.mp4"), 1)
    for odd in ("../../hall@champion", "", "@", "@champion", "hall@", "hall@@1", "a/b@1", " ", "hall@1\n", "x" * 5000, "..", "%2e%2e", "hall@-1", "no.mp4"):
        assert line(moworld("release", "verify", odd), 2), odd


def png(width: int, height: int) -> bytes:
    """A PNG of one colour, whose rows are compressed as they are made."""
    packed, row = zlib.compressobj(9), bytes(1 + 3 * width)
    data = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    parts = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts)


def test_hostile_pictures_and_cameras_are_one_line(moworld: Command, models: Path, tmp_path: Path):
    (tmp_path / "huge.png").write_bytes(png(20_000, 9_000))
    (tmp_path / "short.png").write_bytes((tmp_path / "first.png").read_bytes()[:200])
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    for name, found in (("huge.png", "20000x9000"), ("short.png", "damaged"), ("small.png", "8x8"), ("text.png", "text.png"), ("pipe.png", "no such file"),
                        ("link.png", "no such file"), (".", "no such file")):  # fmt: skip
        command = ("rollout", "--image", name, "--out", "v.mp4", "--model", models / "one", "--backend", "torch")
        assert found in line(moworld(*command), 2), name
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("extrinsics_c2w", "intrinsics"):
            archive.writestr(f"{name}.npy", bytes(200_000_000))
    (tmp_path / "no.npz").write_bytes(b"no")
    for name, found in (("bomb.npz", "cameras"), ("no.npz", "pickles"), ("none.npy", "no such file"), ("pipe.png", "regular file")):
        command = ("rollout", "--image", "first.png", "--out", "v.mp4", "--model", models / "one", "--backend", "torch", "--poses", name)
        assert found in line(moworld(*command), 2), name
    assert not (tmp_path / "v.mp4").exists() and not (tmp_path / "v.mp4.json").exists()


def test_a_record_with_hostile_controls_is_one_line(moworld: Command, models: Path, tmp_path: Path):
    roll(moworld, models, "v.mp4", "--actions", "w*1")
    (tmp_path / "v.mp4").unlink()
    whole = (tmp_path / "v.mp4.json").read_bytes()
    nan = base64.b64encode(np.full((12, 4, 4), np.nan).tobytes()).decode()
    for change, found in (
        ({"picture": base64.b64encode(png(20_000, 9_000)).decode()}, "20000x9000"),
        ({"poses": "AAAA"}, "poses"), ({"poses": nan}, "NaN"), ({"actions": "w*999999999"}, "count"), ({"actions": "q"}, "controls"),
        ({"chunk_latents": 900}, "chunk_latents"), ({"seed": 10**30}, "seed"),
    ):  # fmt: skip
        edit(tmp_path / "v.mp4.json", lambda values, change=change: values["record"]["controls"].update(change))  # type: ignore[misc]
        assert found in line(moworld("rollout", "--replay", "v.mp4.json", "--model", models / "one"), 2), change
        (tmp_path / "v.mp4.json").write_bytes(whole)


def test_what_is_missing_is_named(moworld: Command, models: Path):
    assert "--image" in line(moworld("rollout", "--out", "v.mp4"), 2)
    assert "--out" in line(moworld("rollout", "--image", "first.png"), 2)
    assert "no.mp4.json" in line(moworld("rollout", "--replay", "no.mp4"), 2)
