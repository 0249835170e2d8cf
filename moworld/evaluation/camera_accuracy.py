"""Agreement of a video with its camera path (paper 6.1): turning measured by optical flow against the commanded turning."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moworld.camera.formats import read_cameras
from moworld.errors import InputError
from moworld.evaluation.egomotion import optical_flow
from moworld.files import Pathlike

Array = NDArray[np.float64]
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
CENTRE = 0.25  # share of the frame cut from each border: what enters the frame there has no match


def commanded_yaw(c2w: ArrayLike) -> Array:
    """Returns the degrees turned right between neighbouring poses (T, 4, 4), about the earlier camera's vertical axis: (T - 1,)."""
    c2w = np.asarray(c2w, dtype=np.float64)
    forward = (np.swapaxes(c2w[:-1, :3, :3], -1, -2) @ c2w[1:, :3, 2:3])[..., 0]
    return np.degrees(np.arctan2(forward[:, 0], forward[:, 2]))


def flow_yaw(frames: NDArray[np.uint8], focal: float, centre: float = 0.5) -> Array:
    """Returns the degrees turned right between neighbouring frames, measured by dense optical flow: (T - 1,).

    frames: (T, H, W, 3) uint8; focal, centre: fx and cx as shares of the width
    A column that moves from angle a to angle b was turned by a - b; the result is the median over the inner frame. Walking ahead moves
    the two halves in opposite directions and cancels; walking sideways does not cancel.
    """
    flow = optical_flow(frames)[..., 0]
    rows, columns = (slice(round(CENTRE * size), round((1 - CENTRE) * size)) for size in flow.shape[1:])
    at = ((np.arange(flow.shape[2]) + 0.5) / flow.shape[2])[columns]
    angles = np.arctan((at - centre) / focal) - np.arctan((at + flow[:, rows, columns] - centre) / focal)
    return np.degrees(np.median(angles, axis=(1, 2)))


def correlation(measured: ArrayLike, commanded: ArrayLike) -> float | None:
    """Returns Pearson's correlation, or None if one of the two does not vary (a path without turns contains no information)."""
    measured, commanded = np.asarray(measured, dtype=np.float64), np.asarray(commanded, dtype=np.float64)
    if len(commanded) < 2 or commanded.std() < 1e-9 or measured.std() < 1e-9:
        return None
    return float(np.corrcoef(measured, commanded)[0, 1])


def gain(measured: ArrayLike, commanded: ArrayLike) -> float | None:
    """Returns the slope of `measured` over `commanded`, or None if `commanded` does not vary; a correlation ignores the amount."""
    measured, commanded = np.asarray(measured, dtype=np.float64), np.asarray(commanded, dtype=np.float64)
    if len(commanded) < 2 or commanded.std() < 1e-9:
        return None
    return float(np.cov(measured, commanded, bias=True)[0, 1] / commanded.var())


def evaluate_folder(folder: Pathlike) -> dict[str, Any]:
    """Compares the turning of each video in a folder with the camera file of the same stem (.txt, .npz or a folder of .npy files).

    returns: videos, measured, failed, failures [{video, reason}], yaw_correlation (over all frames), yaw_error_degrees (mean absolute, per
             frame). A video with an unreadable file or cameras counts as a failure.
    Raises InputError if there is no video, or none could be measured.
    """
    root = Path(folder)
    videos = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES)
    pairs, failures = [], []
    for video in videos:
        try:
            pairs.append(_video_yaw(video))
        except InputError as error:
            failures.append({"video": video.name, "reason": str(error)})
    if not pairs:
        found = f"{len(videos)} videos, none measured; first: {failures[0]['reason']}" if videos else "no video"
        raise InputError(root, "", found, "videos with a camera file of the same stem", "put NAME.txt beside NAME.mp4")
    counts = {"videos": len(videos), "measured": len(pairs), "failed": len(failures)}
    return {**counts, "failures": failures, **yaw_scores(pairs)}


def _video_yaw(video: Path) -> tuple[Array, Array]:
    """Returns measured and commanded turning of a video in degrees per frame; raises InputError if files are unreadable or do not match."""
    from moworld.video import read_frames

    cameras_file = next((path for suffix in (".txt", ".npz", "") if (path := video.with_suffix(suffix)).exists()), None)
    if cameras_file is None:
        raise InputError(video, "", "no camera file of the same stem", "NAME.txt beside NAME.mp4", "write the cameras it should follow")
    frames = read_frames(video)
    cameras = read_cameras(cameras_file, frames.shape[1:3])
    count = min(len(cameras), len(frames))
    if count < 2 or abs(len(cameras) - len(frames)) > 3:  # a codec with 4k + 1 frames may drop up to three
        raise InputError(video, "", f"{len(frames)} frames, {len(cameras)} cameras", "a camera for each frame", "give the cameras it has")
    turned = flow_yaw(frames[:count], float(cameras.intrinsics[0, 0]), float(cameras.intrinsics[0, 2]))
    return turned, commanded_yaw(cameras.c2w[:count])


def evaluate_model(folder: Pathlike, controls: str = "l*12,none*12,j*24,none*12,l*12", device: str = "") -> dict[str, Any]:
    """Runs a world model with keys from a test image and compares the turning in its frames with the keys.

    device:  see `pick_device`
    returns: controls, frames, yaw_correlation, yaw_error_degrees
    """
    from moworld.camera.controls import controls_to_c2w
    from moworld.evaluation.speed import control_chunks, example_picture, open_session

    session, config = open_session(folder, device)
    picture = example_picture(config.height, config.width)
    session.open(picture, "a room with plain walls", seed=0)
    frames = np.concatenate([picture[None], *(session.step(keys) for keys in control_chunks(controls, config.model.chunk_frames))])
    commanded = commanded_yaw(controls_to_c2w(controls, step=config.move_units, degrees=config.yaw_degrees))
    count = min(len(frames), len(commanded) + 1)
    measured = flow_yaw(frames[:count], config.intrinsics[0], config.intrinsics[2])
    return {"controls": controls, "frames": count, **yaw_scores([(measured, commanded[: count - 1])])}


def yaw_scores(pairs: list[tuple[Array, Array]]) -> dict[str, float | None]:
    """Returns correlation and mean absolute difference, in degrees per frame, of measured and commanded yaw over all videos' frames."""
    one, other = np.concatenate(pairs, axis=1)
    return {"yaw_correlation": correlation(one, other), "yaw_error_degrees": float(np.abs(one - other).mean())}
