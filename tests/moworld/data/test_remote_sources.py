"""Videos behind URIs: names that leave the folder, servers that list nothing, missing credentials and prefixes are accounted for in one line."""

import functools
import http.server
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest

from moworld.data.discovery import discover
from moworld.errors import InputError
from moworld.files import open_uri
from moworld.video import write_video


@pytest.fixture
def video(tmp_path: Path) -> bytes:
    write_video(tmp_path / "v.mp4", [np.full((32, 32, 3), 9 * t, np.uint8) for t in range(5)], 24)
    return (tmp_path / "v.mp4").read_bytes()


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


class Unlisted(http.server.SimpleHTTPRequestHandler):
    """A server of files that refuses folders and ignores the query, as those behind signed links."""

    def do_GET(self):
        self._answer(super().do_GET)

    def do_HEAD(self):
        self._answer(super().do_HEAD)

    def _answer(self, answer):
        self.path = self.path.split("?")[0]
        if self.path.endswith("/"):
            self.send_error(403)
        else:
            answer()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path: Path):
    root = tmp_path / "served"
    root.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Unlisted, directory=str(root))) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield root, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_a_name_that_leaves_the_folder_is_rejected_and_nothing_is_written_outside(memory, video, tmp_path):
    system = memory
    for name in ("/dots/../../../escaped.mp4", "/dots/good.mp4"):
        system.pipe_file("/plain", video)
        system.store[name] = system.store["/plain"]
    scratch = tmp_path / "a/b/c/scratch"
    found = discover("memory://dots", scratch)
    assert [name for _, name in found.videos] == ["good.mp4"]
    assert [(fate.file, fate.fate) for fate in found.fates] == [("../../../escaped.mp4", "rejected")]
    assert [path.name for path in tmp_path.rglob("*.mp4")].count("escaped.mp4") == 0
    assert found.place(found.videos[0][0]) == "memory:///dots/good.mp4"


def test_a_prefix_without_an_object_and_one_without_a_video_are_named_by_the_uri(memory, video, tmp_path):
    memory.pipe_file("/texts/a.csv", b"1")
    with pytest.raises(InputError, match=r"memory://nowhere: found .*"):
        discover("memory://nowhere", tmp_path / "scratch")
    with pytest.raises(InputError, match=r"memory://texts: found no video among 1 objects"):
        discover("memory://texts", tmp_path / "scratch")


def test_a_video_on_a_server_without_listings_is_fetched_with_its_camera_file(server, video, tmp_path):
    root, url = server
    (root / "walk.mp4").write_bytes(video)
    (root / "walk.txt").write_text("cameras")
    for query in ("", "?signature=a/b.c"):
        found = discover(f"{url}/walk.mp4{query}", tmp_path / f"scratch{len(query)}")
        ((path, name),) = found.videos
        assert name == "walk.mp4" and found.alone and path.read_bytes() == video and path.with_suffix(".txt").read_text() == "cameras"
        assert found.place(path) == f"{url}/walk.mp4{query}"


@pytest.mark.parametrize("name", ["missing.mp4", "folder/"])
def test_what_such_a_server_does_not_give_is_one_line(server, tmp_path, name):
    with pytest.raises(InputError) as caught:
        discover(f"{server[1]}/{name}", tmp_path / "scratch")
    assert f"{server[1]}/{name}: found" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_credentials_and_an_endpoint_that_is_down_are_one_line(tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(key, raising=False)
    system = fsspec.get_filesystem_class("s3")
    for keys, words in (({}, "set AWS_ACCESS_KEY_ID"), ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, "AWS_ENDPOINT_URL")):
        for key, value in keys.items():
            monkeypatch.setenv(key, value)
        for read in (lambda: discover("s3://bucket/videos", tmp_path / "scratch"), lambda: open_uri("s3://bucket/index.parquet")):
            system.clear_instance_cache()
            with pytest.raises(InputError) as caught:
                read()
            assert words in str(caught.value) and "\n" not in str(caught.value)
    system.clear_instance_cache()
