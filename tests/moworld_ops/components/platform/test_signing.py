"""Signatures of models and their keys."""

import pytest

from moworld.errors import InputError, IntegrityError
from moworld_ops.components.platform import keys, signing


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "home"))
    folder = tmp_path / "model"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "transformer" / "weights").write_bytes(b"weights")
    signing.sign(folder, tmp_path / "model.sig")
    signing.verify(folder, tmp_path / "model.sig")
    return folder


@pytest.mark.parametrize("change", ["content", "added", "removed"])
def test_a_signed_model_that_was_changed_is_refused(model, change):
    if change == "content":
        (model / "transformer" / "weights").write_bytes(b"other weights")
    elif change == "added":
        (model / "extra").write_text("extra")
    else:
        (model / "transformer" / "weights").unlink()
    with pytest.raises(InputError, match="not what was signed"):
        signing.verify(model, model.parent / "model.sig")


def test_a_signature_by_another_key_and_a_missing_one_are_refused(model, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no signature"):
        signing.verify(model, tmp_path / "absent.sig")
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "other"))
    with pytest.raises(InputError, match="no public key"):
        signing.verify(model, tmp_path / "model.sig")
    keys.signing_key()
    with pytest.raises(IntegrityError, match="not what was signed"):
        signing.verify(model, tmp_path / "model.sig")


def test_the_private_key_is_readable_only_by_its_owner_and_kept(model, tmp_path):
    private = keys.signing_key()[0]
    assert private.stat().st_mode & 0o777 == 0o600
    before = private.read_bytes()
    signing.sign(model, tmp_path / "again.sig")
    assert private.read_bytes() == before and private.with_suffix(".pub").is_file()
