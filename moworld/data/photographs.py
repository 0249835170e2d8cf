"""Structure from motion for photographs and other images that are no video: exhaustive matching with COLMAP's own defaults.

Points cannot be followed between images that are far apart or in no order. Descriptors of every pair of images are matched instead.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from moworld.data.tracks import followed
from moworld.data.verification import MIN_MATCHES, two_view_inliers

Frames = NDArray[np.uint8]
EXAMINED = 12  # pairs of consecutive images, spread over the sequence
FOLLOWED, NEAR = 0.6, 0.06  # of the corners, and of the width: in a video more corners lead to the next image, and move less
MOST = 200  # images: a longer sequence is a video
LARGEST_SIDE = 640  # pixels of the images that are examined


def is_video(images: list[Path]) -> bool:
    """Returns whether consecutive images show nearly the same view: most corners move a little, in half of the pairs or more.

    Measured medians: 0.73 to 0.97 for videos (game walks, an orbit, every third frame of it), 0.03 to 0.48 for sets of photographs, 0.07
    for shuffled frames.
    images: files of a sequence in its order
    """
    if len(images) > MOST:
        return True
    pairs = list(pairwise(images))
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(EXAMINED, len(pairs))).round().astype(int)).tolist()
    shares = [_followed_share(_grey(pairs[index][0]), _grey(pairs[index][1])) for index in chosen]
    return not shares or float(np.median(shares)) >= FOLLOWED


def reconstruct(images: Path, names: list[str], scratch: Path, seed: int) -> list[Any]:
    """Returns COLMAP's models of images, the one with most images first. Images of one size share a lens.

    names: file names in `images`
    """
    database, folder = scratch / "photographs.db", scratch / "photographs"
    folder.mkdir()
    sizes = {_grey(images / name).shape for name in names}
    mode = pycolmap.CameraMode.SINGLE if len(sizes) == 1 else pycolmap.CameraMode.AUTO
    pycolmap.extract_features(database, images, names, mode)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    pycolmap.match_exhaustive(database, verification_options=verification)
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed, options.num_threads, options.min_model_size = seed, 1, 3
    models = pycolmap.incremental_mapping(database, images, folder, options=options).values()
    return sorted(models, key=lambda model: -int(model.num_reg_images()))


def _grey(path: Path) -> Frames:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise ValueError(f"{path} is no image")
    factor = min(1.0, LARGEST_SIDE / max(picture.shape))
    size = round(picture.shape[1] * factor), round(picture.shape[0] * factor)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _followed_share(before: Frames, after: Frames) -> float:
    """Returns the share of an image's corners that lead to a near place in the next image and agree with one two-view geometry."""
    if before.shape != after.shape:
        return 0.0
    corners = cv2.goodFeaturesToTrack(before, 1200, 0.01, 12, blockSize=5)
    if corners is None or len(corners) < MIN_MATCHES:
        return 1.0  # a blank image decides nothing
    first, last = (points.astype(np.float64) for points in followed([before, after]))
    if len(first) < MIN_MATCHES:
        return 0.0
    near = np.linalg.norm(last - first, axis=1) < NEAR * before.shape[1]
    return float((two_view_inliers(first, last) & near).sum()) / len(corners)
