"""C2PA manifests: read by the package's own verifier, accepted by the keys that a machine trusts, refused after a change."""

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from moworld.errors import IntegrityError
from moworld.video import read_frames, write_video
from moworld_ops.components.platform import keys
from moworld_ops.components.platform.content_credentials import LABEL, embed, embedder, verify_manifest

c2pa = pytest.importorskip("c2pa", reason="extra c2pa is not installed")
FACTS = {"kind": "rollout", "prompt": "", "seed": 7, "frames": 9, "model": {"sha256": "0" * 64, "name": "m", "version": "3"}}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "home"))
    return tmp_path


def new_key(path: Path, curve: ec.EllipticCurve, monkeypatch: pytest.MonkeyPatch) -> keys.PublicKey:
    path.write_bytes(ec.generate_private_key(curve).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    monkeypatch.setenv(keys.KEY, str(path))
    return keys.signing_key()[1]


def video(path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 48, 3), dtype=np.uint8)
    write_video(path, frames, 24)
    return path


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_video_says_which_model_generated_it_and_its_frames_stay(home: Path, monkeypatch: pytest.MonkeyPatch, curve: ec.EllipticCurve, suffix: str):
    public = new_key(home / "own.pem", curve, monkeypatch)
    other = new_key(home / "other.pem", ec.SECP256R1(), monkeypatch)
    monkeypatch.setenv(keys.KEY, str(home / "own.pem"))
    path = video(home / f"v{suffix}")
    frames = read_frames(path)
    embed(path, FACTS)
    assert np.array_equal(read_frames(path), frames) and sorted(one.name for one in home.glob("*v*")) == [path.name]
    found = verify_manifest(path, [other, public])
    assert found is not None and found.signer == public.fingerprint and found.facts == FACTS
    assert verify_manifest(path, [other]).signer == ""
    with c2pa.Reader(str(path)) as reader:  # as any other verifier reads it
        report = json.loads(reader.json())
    manifest = report["manifests"][report["active_manifest"]]
    assert report["validation_state"] == "Valid" and {one["code"] for one in report["validation_status"]} == {"signingCredential.untrusted"}
    (action,) = next(one["data"] for one in manifest["assertions"] if one["label"] == "c2pa.actions.v2")["actions"]
    assert action["action"] == "c2pa.created" and action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert any(one["label"] == LABEL for one in manifest["assertions"])


def test_a_changed_video_is_refused_and_one_without_a_manifest_has_none(home: Path, monkeypatch: pytest.MonkeyPatch):
    public = new_key(home / "own.pem", ec.SECP256R1(), monkeypatch)
    path = video(home / "v.mp4")
    assert verify_manifest(path, [public]) is None
    plain = path.read_bytes()
    embed(path, FACTS)
    whole = path.read_bytes()
    assert len(whole) > len(plain)
    at = whole.index(b"mdat") + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(IntegrityError, match=r"content credentials: found assertion\.bmffHash\.mismatch"):
        verify_manifest(path, [public])
    at = whole.index(b'"seed"') if b'"seed"' in whole else whole.index(b"seed")
    path.write_bytes(whole[:at] + b"S" + whole[at + 1 :])
    with pytest.raises(IntegrityError, match="content credentials"):
        verify_manifest(path, [public])


def test_without_a_key_or_in_webm_nothing_is_written(home: Path, monkeypatch: pytest.MonkeyPatch):
    assert embedder() is None and not (home / "home").exists()
    new_key(home / "own.pem", ec.SECP256R1(), monkeypatch)
    assert embedder() is embed
    path = video(home / "v.webm")
    before = path.read_bytes()
    embed(path, FACTS)
    assert path.read_bytes() == before and verify_manifest(path, []) is None
