"""Data revisions: recorded, fetched back, moved."""

import subprocess

import pytest

from moworld.errors import InputError
from moworld_ops.components.platform.revisions import fetch_revision, record_revision


def test_every_revision_can_be_fetched_and_unchanged_data_creates_none(tmp_path):
    registry, data = tmp_path / "registry", tmp_path / "data"
    data.mkdir()
    (data / "index.parquet").write_bytes(b"index 1")
    (data / "shard-0.safetensors").write_bytes(b"shard")
    first = record_revision(str(data), str(registry), "first")
    assert record_revision(str(data), str(registry), "again") == first
    (data / "index.parquet").unlink()  # a new file, because the registry holds a hard link to the old one
    (data / "index.parquet").write_bytes(b"index 2")
    second = record_revision(str(data), str(registry), "second")
    assert second != first
    for revision, text in ((first, b"index 1"), (second, b"index 2")):
        fetch_revision(str(registry), revision, str(tmp_path / revision))
        assert (tmp_path / revision / "index.parquet").read_bytes() == text
        assert (tmp_path / revision / "shard-0.safetensors").read_bytes() == b"shard"
    log = subprocess.run(["git", "-C", str(registry), "log", "--format=%s"], capture_output=True, text=True, check=True).stdout.split("\n")
    assert log[:3] == ["second", "first", "The registry and its remote"]
    remotes = subprocess.run(
        ["git", "-C", str(registry), "show", f"{first}:.dvc/config"], capture_output=True, text=True, check=True
    ).stdout
    assert "store" in remotes and str(tmp_path) not in remotes  # the registry may be moved with its store
    with pytest.raises(InputError, match="revision"):
        fetch_revision(str(registry), "0" * 40, str(tmp_path / "none"))


def test_data_is_fetched_from_the_remote_if_the_cache_is_gone(tmp_path):
    import shutil

    registry, data = tmp_path / "registry", tmp_path / "data"
    data.mkdir()
    (data / "shard").write_bytes(b"shard")
    revision = record_revision(str(data), str(registry), "first")
    shutil.rmtree(registry / ".dvc" / "cache")
    shutil.rmtree(registry / "features")
    fetch_revision(str(registry), revision, str(tmp_path / "out"))
    assert (tmp_path / "out" / "shard").read_bytes() == b"shard"


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="no data"):
        record_revision(str(tmp_path / "data"), str(tmp_path / "registry"), "nothing")


@pytest.mark.parametrize("depth", [0, 3])
def test_the_default_remote_is_next_to_the_registry_and_both_can_move(tmp_path, monkeypatch, depth):
    """It does not depend on the working directory."""
    here = tmp_path.joinpath("here", *"abc"[:depth])
    here.mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("a")
    monkeypatch.chdir(here)
    revision = record_revision(str(tmp_path / "data"), str(tmp_path / "state" / "registry"), "first")
    kept = [path for path in (tmp_path / "state" / "registry-store").rglob("*") if path.is_file()]
    assert kept, "nothing was pushed next to the registry"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "here", "state"]
    (tmp_path / "state").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    fetch_revision(str(tmp_path / "moved" / "registry"), revision, str(tmp_path / "out"))
    assert [path.read_text() for path in (tmp_path / "out").rglob("a")] == ["a"]
