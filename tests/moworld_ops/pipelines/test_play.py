"""The command `play`: how it ends, what it leaves, pictures of a model that has none, and options that are refused."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.moworld.inference.player.hostile import bomb
from tests.moworld.inference.worlds import served_world
from tests.moworld_ops.pipelines.command import Command

CODE = """import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background of a shell ignores it
from moworld_ops.pipelines.cli.app import main
main()"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_128_plus_its_number_and_no_recording_is_left(tmp_path: Path, number: int, status: int):
    served_world(tmp_path / "codec").save(tmp_path / "model")  # without pictures
    (tmp_path / "scratch").mkdir()
    environment = {**os.environ, "MOWORLD_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "scratch")}
    command = [sys.executable, "-c", CODE, "play", "--port", "0", "--model", str(tmp_path / "model"), "--backend", "torch"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as playing:
        address = re.search(r"http\S+", playing.stdout.readline())[0]
        with urllib.request.urlopen(f"{address}pictures/0", timeout=300) as answer:
            assert answer.headers["Content-Type"] == "image/jpeg"
        assert list((tmp_path / "scratch").glob("moworld-player-*"))
        playing.send_signal(number)
        _, err = playing.communicate(timeout=300)
        assert playing.returncode == status
    assert not list((tmp_path / "scratch").glob("moworld-player-*"))
    assert "has no pictures" in err and "--image" in err and "Traceback" not in err


@pytest.mark.parametrize("command", [("play", "--port", 0), ("rollout", "--out", "walk.mp4")])
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_small_file_of_a_huge_picture_is_refused_before_it_is_decoded(
    tmp_path: Path, command: tuple[object, ...], side: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "first.png").write_bytes(bomb(side))
    done = Command(tmp_path, monkeypatch, capsys)(*command, "--image", "first.png")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "first.png" in done.stderr and (f"{side}x{side}" in done.stderr or str(side * side) in done.stderr)


@pytest.mark.parametrize("origin", ["world.example", "https://world.example/path", "ftp://world.example"])
def test_an_origin_that_is_none_is_refused(
    tmp_path: Path, origin: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    done = Command(tmp_path, monkeypatch, capsys)("play", "--port", 0, "--origin", origin)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "https://world.example" in done.stderr
