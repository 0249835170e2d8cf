"""Visual measures of a clip (paper 2): sharpness, exposure, motion, frozen stretches, cuts, flicker, overlays. Contracts hand in thresholds."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.data.clips import Clip
from moworld.files import Pathlike
from moworld.video import iterate_frames

Grey = NDArray[np.uint8]
EDGE = 96.0  # morphological gradient of a stroke's rim: letters are drawn to stand out
STILL_PIXEL = 6.0  # grey levels that a pixel of an overlay may stray, from compression
MOVED = 12.0  # grey levels around it that must stray for the overlay to be told from a wall


def measure_frames(frames: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Measures of neighbouring frames (H, W, 3): grey levels 0 to 255, shares and the cut score 0 to 1."""
    import cv2

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    histograms = [np.stack([np.histogram(f[..., c], 16, (0, 256))[0] for c in range(3)]) / f[..., 0].size for f in frames]
    changes = [float(np.abs(a.astype(np.float32) - b).mean()) for a, b in pairwise(grey)] or [0.0]
    levels = np.array([g.mean() for g in grey])
    return {
        "sharpness": float(np.median([cv2.Laplacian(g, cv2.CV_32F).var() for g in grey])),
        "brightness": float(levels.mean()),
        "contrast": float(np.mean([g.std() for g in grey])),
        "motion": float(np.mean(changes)),
        "frozen_share": float(np.mean([change < 0.1 for change in changes])),
        "cut_score": max([float(np.abs(a - b).sum() / 6) for a, b in pairwise(histograms)] or [0.0]),
        "flicker": flicker(levels),
        "text_share": overlay_share(grey),
        "aspect": frames[0].shape[1] / frames[0].shape[0],
    }


def flicker(levels: NDArray[np.float64]) -> float:
    """Median swing of mean grey levels (T,) that is taken back at once: |b - (a + c) / 2| over frames a, b, c. Fades and turns do not swing."""
    if len(levels) < 3:
        return 0.0
    return float(np.median(np.abs(levels[1:-1] - (levels[:-2] + levels[2:]) / 2)))


def overlay_share(grey: list[Grey], samples: int = 12) -> float:
    """Share of the picture under strokes that stay where they are while what is around them moves: subtitles, logos, displays.

    A stroke has strong rims on both sides, close together; its pixels keep their level over frames spread through the clip. Without
    motion an overlay cannot be told from the scene, and 0 is returned.
    """
    import cv2

    chosen = np.stack([grey[i] for i in np.unique(np.linspace(0, len(grey) - 1, samples).astype(int))]).astype(np.float32)
    if len(chosen) < 4:
        return 0.0
    spread, middle = chosen.std(axis=0), np.median(chosen, axis=0)
    rims = cv2.morphologyEx(middle, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    strokes = ((rims > EDGE) & (spread < STILL_PIXEL)).astype(np.uint8)
    strokes = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((3, 9), np.uint8))  # letters of a word belong together
    moved_around = cv2.blur(spread, (grey[0].shape[1] // 4 | 1, grey[0].shape[0] // 4 | 1)) > MOVED
    count, _, stats, _ = cv2.connectedComponentsWithStats(strokes * moved_around.astype(np.uint8))
    big = [stats[i, cv2.CC_STAT_AREA] for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= 12]
    return float(sum(big) / grey[0].size)


def measure_quality(clip: Clip, folder: Pathlike, max_frames: int = 120) -> Clip:
    """The clip with its visual measures filled in, from at most `max_frames` consecutive frames."""
    frames = list(iterate_frames(Path(folder) / clip.video, 0, min(clip.num_frames, max_frames)))
    measures: dict[str, Any] = {key: round(value, 4) for key, value in measure_frames(frames).items()}
    return replace(clip, **measures)
