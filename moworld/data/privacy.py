"""Blurs faces in the pictures of an import (`data.privacy`), with OpenCV's cascade of local binary patterns for frontal faces.

scikit-image has the cascade and runs it. OpenCV's own wheel has neither cascades nor models from version 5 on. There is no detector of number
plates in any installed package, so plates stay as they are.
"""

from collections import deque
from collections.abc import Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.extras import require

Frames = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # top, bottom, left, right
DETECTOR = "OpenCV's LBP cascade for frontal faces"
SMALLEST_FACE = 24  # pixels: the size that the cascade was trained on
GROWTH = 0.3  # of a face's size on each side: hair, chin, and motion between two looks
LOOKS_PER_SECOND = 8.0
HOLD_SECONDS = 0.5  # before and after a look with a face: a face that is missed in between is still blurred
MOSAIC = 4  # cells per side that are left of a face


class FaceBlur:
    """Blurs the faces of a clip's pictures and counts the changed ones."""

    def __init__(self, fps: float) -> None:
        self.every, self.hold = max(1, round(fps / LOOKS_PER_SECOND)), max(1, round(fps * HOLD_SECONDS))
        self.blurred = self.num_frames = 0

    def apply(self, pictures: Iterator[Frames]) -> Iterator[Frames]:
        """Yields the pictures (H, W, 3), each with the faces blurred that were found up to HOLD_SECONDS before or after it."""
        waiting = deque[Frames]()
        found = deque[list[Box]]([[]] * self.hold, 2 * self.hold + 1)  # of `hold` pictures before the first that waits, to `hold` after it
        for index, picture in enumerate(pictures):
            waiting.append(picture)
            found.append(find_faces(picture) if index % self.every == 0 else [])
            if len(waiting) > self.hold:
                yield self._blurred(waiting.popleft(), found)
        for picture in waiting:
            found.append([])
            yield self._blurred(picture, found)

    def _blurred(self, picture: Frames, found: deque[list[Box]]) -> Frames:
        boxes = {box for near in found for box in near}
        self.num_frames, self.blurred = self.num_frames + 1, self.blurred + bool(boxes)
        return blur(picture, boxes) if boxes else picture

    def summary(self) -> str:
        """Returns what was done, in words."""
        return f"faces blurred in {self.blurred} of {self.num_frames} frames ({DETECTOR})"


def find_faces(picture: Frames) -> list[Box]:
    """Returns the boxes of frontal faces in a picture (H, W, 3), enlarged by GROWTH and inside the picture."""
    height, width = picture.shape[:2]
    if min(height, width) < SMALLEST_FACE:
        return []
    options = {"scale_factor": 1.2, "step_ratio": 1, "min_size": (SMALLEST_FACE,) * 2, "max_size": (min(height, width),) * 2}
    boxes = []
    for face in _cascade().detect_multi_scale(picture, **options):
        down, across = round(GROWTH * face["height"]), round(GROWTH * face["width"])
        top, left = face["r"] - down, face["c"] - across
        boxes.append(
            (max(0, top), min(height, face["r"] + face["height"] + down), max(0, left), min(width, face["c"] + face["width"] + across))
        )
    return boxes


def blur(picture: Frames, boxes: set[Box]) -> Frames:
    """Returns a picture (H, W, 3) of which MOSAIC x MOSAIC smoothed cells are left in each box."""
    changed = picture.copy()
    for top, bottom, left, right in sorted(boxes):
        cells = cv2.resize(changed[top:bottom, left:right], (MOSAIC, MOSAIC), interpolation=cv2.INTER_AREA)
        changed[top:bottom, left:right] = cv2.resize(cells, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    return changed


@cache
def _cascade() -> Any:
    data = require("skimage.data", "data")
    return require("skimage.feature", "data").Cascade(data.lbp_frontal_face_cascade_filename())
