"""Data revisions: recorded, fetched back, moved."""

import shutil
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


def recorded(tmp_path, text: bytes = b"shard", **options) -> str:
    data = tmp_path / f"data-{text.decode()}"
    data.mkdir()
    (data / "shard").write_bytes(text)
    return record_revision(str(data), str(tmp_path / "registry"), text.decode(), **options)


def damage(tmp_path, kinds: tuple[str, ...], change) -> None:
    """Changes the only shard in the cache, the remote and the newest folder, where `kinds` says so."""
    places = {"cache": tmp_path / "registry/.dvc/cache", "remote": tmp_path / "registry-store"}
    for path in [path for kind in kinds for path in places[kind].rglob("*") if path.is_file() and path.read_bytes() == b"shard"]:
        path.parent.chmod(0o755)
        change(path)


def test_damaged_bytes_are_named_and_nothing_is_left(tmp_path):
    def spoil(path):
        path.unlink()
        path.write_bytes(b"spoilt")

    revision = recorded(tmp_path)
    damage(tmp_path, ("remote",), spoil)
    fetch_revision(str(tmp_path / "registry"), revision, str(tmp_path / "whole"))  # the cache is whole
    damage(tmp_path, ("cache",), lambda path: path.unlink())
    with pytest.raises(InputError, match=r"features/shard: revision .*: found damaged bytes"):
        fetch_revision(str(tmp_path / "registry"), revision, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_missing_bytes_an_unknown_revision_one_without_data_and_a_full_folder_are_named(tmp_path):
    revision, registry = recorded(tmp_path), str(tmp_path / "registry")
    first = subprocess.run(["git", "-C", registry, "rev-list", "--max-parents=0", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    damage(tmp_path, ("cache", "remote"), lambda path: path.unlink())
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    cases = [
        (revision, "out", "expected its data in the cache or the remote"), ("f" * 40, "out", "no such revision"),
        (first, "out", "found no features"), (revision, "full", "a folder with files"),
    ]  # fmt: skip
    for name, out, words in cases:
        with pytest.raises(InputError) as caught:
            fetch_revision(registry, name, str(tmp_path / out))
        assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() and (tmp_path / "full/file").read_text() == "mine"


def test_another_remote_is_used_from_then_on_and_earlier_revisions_stay_readable(tmp_path):
    first = recorded(tmp_path)
    (tmp_path / "other").mkdir()
    second = recorded(tmp_path, b"more", remote=str(tmp_path / "other"))
    assert [path.read_bytes() for path in (tmp_path / "other").rglob("*") if path.is_file() and path.read_bytes() == b"more"] == [b"more"]
    shutil.rmtree(tmp_path / "registry/.dvc/cache")
    for revision, text in ((first, b"shard"), (second, b"more")):
        fetch_revision(str(tmp_path / "registry"), revision, str(tmp_path / revision))
        assert (tmp_path / revision / "shard").read_bytes() == text
    assert recorded(tmp_path, b"again", remote=str(tmp_path / "other")) not in (first, second)
    log = subprocess.run(["git", "-C", str(tmp_path / "registry"), "log", "--format=%s"], capture_output=True, text=True, check=True).stdout
    assert log.count("The remote is") == 1


def test_what_a_merge_left_is_replaced_and_a_lock_of_git_is_one_line(tmp_path):
    recorded(tmp_path)
    (tmp_path / "registry/features.dvc").write_text("<<<<<<< HEAD\nouts:\n")
    second = recorded(tmp_path, b"more")
    fetch_revision(str(tmp_path / "registry"), second, str(tmp_path / "out"))
    (tmp_path / "registry/.git/index.lock").write_text("")
    with pytest.raises(InputError, match=r"index\.lock: found a lock of another git command"):
        recorded(tmp_path, b"third")
