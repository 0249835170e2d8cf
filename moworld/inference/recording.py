"""Wrapper that records episodes of the environment as videos with all frames, by PyAV.

Gymnasium's own RecordVideo needs moviepy and sees one frame of each chunk.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from moworld.files import Pathlike, output_file
from moworld.video import Frames, write_video


class RecordEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Writes `folder/episode-N.mp4` when episode N (from 0) ends, is reset or closed, at the model's frame rate.

    trigger: whether to record episode N; None records all
    Raises InputError if the folder cannot be written.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], folder: Pathlike, trigger: Callable[[int], bool] | None = None) -> None:
        super().__init__(env)
        self.folder, self.trigger, self.episode = Path(folder), trigger or (lambda _: True), -1
        output_file(self.folder / "episode-0.mp4")
        self._frames: list[Frames] = []

    def reset(self, **settings: Any) -> Any:
        """Writes the former episode, if it was not written yet, and begins the next one with its first frame."""
        self._write()
        observation, info = self.env.reset(**settings)
        self.episode += 1
        self._frames = [info["frames"][-1:]] if self.trigger(self.episode) else []
        return observation, info

    def step(self, action: Any) -> Any:
        """Steps, and writes the video if the episode has ended."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._frames:
            self._frames.append(info["frames"])
        if terminated or truncated:
            self._write()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Writes an episode that has not ended, and closes the environment."""
        self._write()
        self.env.close()

    def _write(self) -> None:
        frames, self._frames = self._frames, []
        if len(frames) > 1:
            write_video(self.folder / f"episode-{self.episode}.mp4", np.concatenate(frames), self.env.metadata["frame_fps"])
