"""Recovered cameras against points that had no say in them: corners followed from frame to frame, without a vote on which of them are right.

Matches that agree with a two-view geometry of their own pass with cameras that went wrong with them: a sky that is no picture of infinity, or a
turn that most features took for another, confirms itself. Corners spread evenly over the picture are not chosen by what they agree on.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moworld.camera.cameras import Cameras
from moworld.data.clips import Clip
from moworld.data.tracks import followed
from moworld.data.verification import camera_distances
from moworld.video import iterate_frames

Frames = NDArray[np.uint8]
NEAR = 3.0  # pixels
FEWEST = 50  # corners that must be followed for a pair of frames to say anything


def followed_shares(clip: Clip, root: Path, cameras: Cameras, gap: int) -> tuple[float | None, float | None]:
    """Share of followed corners within 3 pixels of where the cameras put them: its mean over pairs of frames, and that of the lowest pair.

    cameras: one a frame of the clip
    gap: frames from a pair's first to its last; the next pair begins where one ends
    returns: (None, None) when fewer than two pairs have enough corners to say anything
    """
    shares = []
    for start, pictures in _stretches(root / clip.video, gap):
        first, last = (points.astype(np.float64) for points in followed(pictures))
        if len(first) >= FEWEST:
            distances = camera_distances(first, last, cameras, start, start + gap, (clip.height, clip.width))
            shares.append(float((distances < NEAR).mean()))
    return (round(float(np.mean(shares)), 4), round(min(shares), 4)) if len(shares) > 1 else (None, None)


def _stretches(video: Path, gap: int) -> Iterator[tuple[int, list[Frames]]]:
    """Stretches of gap + 1 greyscale frames (H, W), each with the number of its first; a stretch begins with the last frame of the one before."""
    import cv2

    pictures: list[Frames] = []
    for number, frame in enumerate(iterate_frames(video)):
        pictures.append(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8))
        if len(pictures) > gap:
            yield number - gap, pictures
            pictures = pictures[-1:]
