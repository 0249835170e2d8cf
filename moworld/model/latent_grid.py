"""The grid of latents over a video (paper 3.1): the one place that converts video frames, latent frames, pixels and tokens.

The codec keeps the first frame as a latent frame of its own, joins every four later ones, and downsamples height and width by 8. The
transformer joins a patch of latents into a token. Imports no torch.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from moworld.errors import InputError


@dataclass(frozen=True)
class LatentGrid:
    """Latent frames of `temporal` video frames and latents of `spatial` x `spatial` pixels, of which a token covers `patch`."""

    patch: tuple[int, int, int] = (1, 1, 1)
    temporal: int = 4
    spatial: int = 8

    def num_latents(self, num_frames: int, file: object = "video") -> int:
        """Returns the latent frames of a video of 4k + 1 frames: k + 1. Raises InputError, which names `file`, for any other number."""
        whole = self.whole_frames(num_frames)
        if num_frames < 1 or num_frames != whole:
            fix = f"use {max(1, whole)} or {max(1, whole + self.temporal)} frames"
            raise InputError(file, "frames", num_frames, f"{self.temporal}k + 1", fix)
        return (num_frames - 1) // self.temporal + 1

    def num_frames(self, num_latents: int) -> int:
        """Returns the video frames of the first `num_latents` latent frames of a video: 4k + 1 for k + 1."""
        return self.temporal * (num_latents - 1) + 1

    def frames_after_first(self, num_latents: int) -> int:
        """Returns the video frames of latent frames after the first one, as in a chunk: 4 for each."""
        return self.temporal * num_latents

    def last_frame(self, latent: int) -> int:
        """Returns the index of the last video frame of a latent frame: 4 times its index. A window from this latent frame starts there."""
        return self.temporal * latent

    def whole_frames(self, num_frames: int) -> int:
        """Returns the largest 4k + 1 that is at most `num_frames`."""
        return (num_frames - 1) // self.temporal * self.temporal + 1

    def latent_size(self, height: int, width: int, file: object = "video") -> tuple[int, int]:
        """Returns (height, width) in latents of a size in pixels. Raises InputError, which names `file`, if 8 does not divide both."""
        return self._divided((height, width), (self.spatial, self.spatial), "pixels", file)

    def pixel_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns (height, width) in pixels of a size in latents."""
        return self.spatial * height, self.spatial * width

    def token_size(self, height: int, width: int, file: object = "latents") -> tuple[int, int]:
        """Returns (rows, columns) of tokens of a size in latents. Raises InputError, which names `file`, if the patch does not divide both."""
        return self._divided((height, width), self.patch[1:], "latents", file)

    def tokens_per_frame(self, height: int, width: int, file: object = "video") -> int:
        """Returns the tokens of a latent frame of (height, width) pixels. Raises InputError if tokens do not divide both."""
        size = (self.spatial * self.patch[1], self.spatial * self.patch[2])
        rows, columns = self._divided((height, width), size, "pixels", file)
        return rows * columns

    @property
    def pixels_per_token(self) -> int:
        return self.spatial * self.patch[1] * self.spatial * self.patch[2]

    def _divided(self, size: tuple[int, int], by: tuple[int, int], unit: str, file: object) -> tuple[int, int]:
        height, width = (length // step for length, step in zip(size, by, strict=True))
        if height < 1 or width < 1 or (height * by[0], width * by[1]) != size:
            expected = f"height a multiple of {by[0]}, width of {by[1]} {unit}"
            fix = f"use {max(1, height) * by[0]} x {max(1, width) * by[1]}"
            raise InputError(file, "size", f"{size[0]} x {size[1]}", expected, fix)
        return height, width


CODEC_GRID = LatentGrid()  # of both codecs; a token's grid depends on the model: `ModelSettings.grid`


def _whole(num_frames: int) -> int:
    if num_frames != CODEC_GRID.whole_frames(num_frames):
        raise ValueError(f"4k + 1 video frames, such as {CODEC_GRID.whole_frames(num_frames)}")
    return num_frames


NumFrames = Annotated[int, Field(ge=1, le=1_000_001), AfterValidator(_whole)]  # of a video, as a setting
