"""Visual measures of a clip (paper 2): sharpness, exposure, motion, frozen stretches, cuts, flicker, overlays. Contracts define thresholds."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.data.clips import Clip
from moworld.files import Pathlike
from moworld.video import iterate_frames

Grey = NDArray[np.uint8]
EDGE = 96.0  # smallest morphological gradient of a stroke's edge
STILL_PIXEL = 6.0  # grey levels: largest deviation of an overlay's pixel, from compression
MOVED = 12.0  # grey levels: smallest deviation around an overlay, which a static wall lacks


def measure_frames(frames: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Returns measures of consecutive frames (H, W, 3): grey levels 0 to 255, shares and the cut score 0 to 1."""
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
    """Returns the median change of mean grey levels (T,) that the next frame reverses: |b - (a + c) / 2|. Fades and turns score near 0."""
    if len(levels) < 3:
        return 0.0
    return float(np.median(np.abs(levels[1:-1] - (levels[:-2] + levels[2:]) / 2)))


def overlay_share(grey: list[Grey], samples: int = 12) -> float:
    """Returns the share of the image under static strokes with moving surroundings: subtitles, logos, displays.

    A stroke has strong edges on both sides, close together; its pixels keep their level over frames spread through the clip.
    Without motion an overlay cannot be distinguished from the scene, and 0 is returned.
    """
    chosen = np.stack([grey[i] for i in np.unique(np.linspace(0, len(grey) - 1, samples).astype(int))]).astype(np.float32)
    if len(chosen) < 4:
        return 0.0
    spread, middle = chosen.std(axis=0), np.median(chosen, axis=0)
    rims = cv2.morphologyEx(middle, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    strokes = ((rims > EDGE) & (spread < STILL_PIXEL)).astype(np.uint8)
    strokes = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((3, 9), np.uint8))  # joins the letters of a word
    moved_around = cv2.blur(spread, (grey[0].shape[1] // 4 | 1, grey[0].shape[0] // 4 | 1)) > MOVED
    areas = cv2.connectedComponentsWithStats(strokes * moved_around.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]  # without the background
    return float(areas[areas >= 12].sum() / grey[0].size)


def measure_quality(clip: Clip, folder: Pathlike, max_frames: int = 120) -> Clip:
    """Returns the clip with its visual measures, computed from its first `max_frames` frames."""
    frames = list(iterate_frames(Path(folder) / clip.video, 0, min(clip.num_frames, max_frames)))
    measures: dict[str, Any] = {key: round(value, 4) for key, value in measure_frames(frames).items()}
    return replace(clip, **measures)
