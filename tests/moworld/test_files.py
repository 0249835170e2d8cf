"""Files: atomic writes, and which directories and files a command may replace."""

import os
from pathlib import Path

import pytest

from moworld.errors import InputError
from moworld.files import atomic_folder, atomic_write, output_directory, output_file, shipped_path


def test_two_writers_with_one_pid_do_not_disturb_each_other(tmp_path):
    """Pods that share a volume may have the same pid."""
    with atomic_write(tmp_path / "file") as one:
        one.write(b"one, ")
        with atomic_write(tmp_path / "file") as other:
            other.write(b"other")
        assert (tmp_path / "file").read_bytes() == b"other"
        one.write(b"complete")
    assert (tmp_path / "file").read_bytes() == b"one, complete"
    with atomic_folder(tmp_path / "folder") as one:
        with atomic_folder(tmp_path / "folder") as other:
            (other / "other").touch()
        (one / "one").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["one"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_missing_an_empty_and_a_former_output_directory_may_be_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert output_directory("new/one") == tmp_path / "new/one"
    assert output_directory(".") == tmp_path
    (tmp_path / "out/videos").mkdir(parents=True)
    (tmp_path / "out/manifest.parquet").touch()
    (tmp_path / "link").symlink_to("out")
    for path in ("out", "link"):
        assert output_directory(path, "manifest.parquet", ("videos", "summary.json")) == tmp_path / "out"


@pytest.mark.parametrize("names", [["notes.txt"], ["videos"], ["manifest.parquet", "videos", "notes.txt"], ["manifest.parquet", ".git"]])
@pytest.mark.parametrize("path", ["out", ".", "../out"])
def test_a_directory_with_other_files_is_refused(tmp_path, monkeypatch, names, path):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path if path == "out" else tmp_path / "out")
    for name in names:
        (tmp_path / "out" / name).touch()
    with pytest.raises(InputError, match="a directory with other files, expected a new or empty directory"):
        output_directory(path, "manifest.parquet", ("videos",))


def test_a_file_is_refused_as_output_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="found a file"):
        output_directory(tmp_path / "file")


def test_a_file_may_be_new_or_replaced(tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "new", "new/new"):
        assert output_file(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize(("path", "found"), [(".", "a directory"), ("file/new", "the file"), (os.devnull, "no regular file")])
def test_a_file_that_cannot_be_written_is_refused(tmp_path, path, found):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=found):
        output_file(tmp_path / path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("check", [output_directory, output_file])
def test_a_parent_without_permission_is_refused(tmp_path, check):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="no permission to write"):
        check(tmp_path / "new")


def test_a_relative_path_is_found_beside_the_package_only_if_it_is_not_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = Path(shipped_path("models/pocket-long"))
    assert shipped.is_absolute() and (shipped / "model_index.json").is_file()
    for unchanged in ("models/nothing", "s3://models/pocket-long", "", str(shipped)):
        assert shipped_path(unchanged) == unchanged
    (tmp_path / "models/pocket-long").mkdir(parents=True)
    assert shipped_path("models/pocket-long") == "models/pocket-long"
