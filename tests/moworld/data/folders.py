"""A clips folder that several test files read, and its check."""

import atexit
import tempfile
from functools import cache
from pathlib import Path

from moworld.data.clips import Clip, read_manifest, write_manifest
from moworld.data.game import record_game
from moworld.data.settings import GameSettings
from moworld.files import Pathlike, sha256_file


def verified(folder: Pathlike) -> list[Clip]:
    """Returns the rows of a clips folder after checking that every file is there with the hash of the manifest."""
    clips = read_manifest(folder)
    for clip in clips:
        assert all((Path(folder) / name).is_file() for name in clip.files()), clip
        assert sha256_file(Path(folder) / clip.video) == clip.video_sha256
        assert clip.camera is None or sha256_file(Path(folder) / clip.camera) == clip.camera_sha256
    return clips


@cache
def recorded_game() -> Path:
    """Returns a clips folder of two game episodes of 97 frames, recorded once per test process. Tests do not write into it."""
    scratch = tempfile.TemporaryDirectory(prefix="recorded-game-")
    atexit.register(scratch.cleanup)
    settings = GameSettings(train_maps=("MAP01", "MAP05"), train_episodes_per_map=1, frames_per_episode=97, workers=1)
    clips, _ = record_game(Path(scratch.name), settings, seed=7)
    write_manifest(scratch.name, clips)
    return Path(scratch.name)
