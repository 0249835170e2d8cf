"""Visual measures of a clip (paper 2): sharpness, exposure, motion, frozen stretches, cuts. Thresholds are handed in by contracts."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld.data.clips import Clip, iterate_frames
from moworld.files import Pathlike


def measure_frames(frames: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Measures of neighbouring frames (H, W, 3): grey levels 0 to 255, shares and the cut score 0 to 1."""
    import cv2

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    histograms = [np.stack([np.histogram(f[..., c], 16, (0, 256))[0] for c in range(3)]) / f[..., 0].size for f in frames]
    changes = [float(np.abs(a.astype(np.float32) - b).mean()) for a, b in pairwise(grey)] or [0.0]
    return {
        "sharpness": float(np.median([cv2.Laplacian(g, cv2.CV_32F).var() for g in grey])),
        "brightness": float(np.mean([g.mean() for g in grey])),
        "contrast": float(np.mean([g.std() for g in grey])),
        "motion": float(np.mean(changes)),
        "frozen_share": float(np.mean([change < 0.1 for change in changes])),
        "cut_score": max([float(np.abs(a - b).sum() / 6) for a, b in pairwise(histograms)] or [0.0]),
    }


def measure_quality(clip: Clip, folder: Pathlike, max_frames: int = 120) -> Clip:
    """The clip with its visual measures filled in, from at most `max_frames` consecutive frames."""
    frames = list(iterate_frames(Path(folder) / clip.video, 0, min(clip.num_frames, max_frames)))
    measures: dict[str, Any] = {key: round(value, 4) for key, value in measure_frames(frames).items()}
    return replace(clip, **measures)
