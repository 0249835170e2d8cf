"""Does a video move as its camera path says (paper 6.1)? Poses against poses; turning in the optical flow against turning asked for."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moworld.camera import se3
from moworld.camera.formats import read_cameras
from moworld.errors import InputError
from moworld.evaluation.egomotion import optical_flow
from moworld.files import Pathlike

Array = NDArray[np.float64]
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
CENTRE = 0.25  # share of the frame cut from each border before reading flow: nothing that entered the frame is matched there


def pose_errors(estimated_c2w: ArrayLike, target_c2w: ArrayLike) -> dict[str, float]:
    """RotErr, TransErr and CamMC summed over frames, and the ATE after Sim(3) alignment.

    estimated_c2w, target_c2w: (T, 4, 4); both are taken relative to their first frame, the estimate's scale is fitted by least squares
    returns: rotation_error_radians, translation_error and trajectory_error in the target's units, camera_motion_consistency;
             trajectory_error is NaN where a path stands still, because no similarity is determined
    Raises ValueError when the shapes disagree.
    """
    estimated, target = np.asarray(estimated_c2w, dtype=np.float64), np.asarray(target_c2w, dtype=np.float64)
    if estimated.shape != target.shape or estimated.ndim != 3:
        raise ValueError(f"estimated {estimated.shape} and target {target.shape} must both be (T, 4, 4)")
    estimated, target = se3.invert(estimated[0]) @ estimated, se3.invert(target[0]) @ target
    length = float((estimated[:, :3, 3] ** 2).sum())
    scale = float((estimated[:, :3, 3] * target[:, :3, 3]).sum()) / length if length > 0 else 1.0
    estimated[:, :3, 3] *= scale
    relative = np.swapaxes(estimated[:, :3, :3], -1, -2) @ target[:, :3, :3]
    moving = all(np.ptp(poses[:, :3, 3], axis=0).max() > 1e-12 for poses in (estimated, target))
    return {
        "rotation_error_radians": float(np.radians(se3.rotation_angle_degrees(relative)).sum()),
        "translation_error": float(np.linalg.norm(estimated[:, :3, 3] - target[:, :3, 3], axis=1).sum()),
        "camera_motion_consistency": float(np.linalg.norm((estimated - target)[:, :3], axis=(1, 2)).sum()),
        "trajectory_error": se3.centre_error_rms(estimated, target) if moving else float("nan"),
    }


def commanded_yaw(c2w: ArrayLike) -> Array:
    """Degrees turned to the right between neighbouring poses (T, 4, 4), about the earlier camera's own vertical axis: (T - 1,)."""
    c2w = np.asarray(c2w, dtype=np.float64)
    forward = (np.swapaxes(c2w[:-1, :3, :3], -1, -2) @ c2w[1:, :3, 2:3])[..., 0]
    return np.degrees(np.arctan2(forward[:, 0], forward[:, 2]))


def flow_yaw(frames: NDArray[np.uint8], focal: float, centre: float = 0.5) -> Array:
    """Degrees turned to the right between neighbouring frames, read from dense optical flow: (T - 1,).

    frames: (T, H, W, 3) uint8; focal, centre: fx and cx as shares of the width
    A column at angle a that moves to angle b was turned by a - b; the median over the inner frame is taken. Walking ahead moves the two
    halves in opposite ways and cancels; walking sideways does not cancel.
    """
    flow = optical_flow(frames)[..., 0]
    rows, columns = (slice(round(CENTRE * size), round((1 - CENTRE) * size)) for size in flow.shape[1:])
    at = ((np.arange(flow.shape[2]) + 0.5) / flow.shape[2])[columns]
    angles = np.arctan((at - centre) / focal) - np.arctan((at + flow[:, rows, columns] - centre) / focal)
    return np.degrees(np.median(angles, axis=(1, 2)))


def correlation(measured: ArrayLike, wanted: ArrayLike) -> float | None:
    """Pearson's correlation, or None where one of the two does not vary (a path without turning says nothing about turning)."""
    measured, wanted = np.asarray(measured, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    if len(wanted) < 2 or wanted.std() < 1e-9 or measured.std() < 1e-9:
        return None
    return float(np.corrcoef(measured, wanted)[0, 1])


def gain(measured: ArrayLike, wanted: ArrayLike) -> float | None:
    """Slope of the line through `measured` over `wanted`, or None where `wanted` does not vary. A correlation does not tell half a turn from a whole one."""
    measured, wanted = np.asarray(measured, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    if len(wanted) < 2 or wanted.std() < 1e-9:
        return None
    return float(np.cov(measured, wanted, bias=True)[0, 1] / wanted.var())


def evaluate_folder(folder: Pathlike) -> dict[str, Any]:
    """Turning of each video of a folder against the camera file of the same stem (.txt, .npz or a folder of .npy files).

    returns: videos, measured, failed, failures [{video, reason}], yaw_correlation (over all frames), yaw_error_degrees (mean absolute, a
             frame). A video that cannot be read, or whose cameras cannot, is a failure that is counted.
    Raises InputError when there is no video, or none could be measured.
    """
    root = Path(folder)
    videos = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES)
    measured, wanted, failures = [], [], []
    for video in videos:
        try:
            turned, asked = _video_yaw(video)
        except InputError as error:
            failures.append({"video": video.name, "reason": str(error)})
            continue
        measured.append(turned)
        wanted.append(asked)
    if not measured:
        found = f"{len(videos)} videos, none measured; first: {failures[0]['reason']}" if videos else "no video"
        raise InputError(root, "", found, "videos with a camera file of the same stem", "put NAME.txt beside NAME.mp4")
    counts = {"videos": len(videos), "measured": len(measured), "failed": len(failures)}
    return {**counts, "failures": failures, **yaw_scores(measured, wanted)}


def _video_yaw(video: Path) -> tuple[Array, Array]:
    """Turning measured and asked for, degrees a frame, of one video. Raises InputError when either cannot be read or they do not match."""
    from moworld.video import read_frames

    cameras_file = next((path for suffix in (".txt", ".npz", "") if (path := video.with_suffix(suffix)).exists()), None)
    if cameras_file is None:
        raise InputError(video, "", "no camera file of the same stem", "NAME.txt beside NAME.mp4", "write the cameras it should follow")
    cameras, frames = read_cameras(cameras_file), read_frames(video)
    count = min(len(cameras), len(frames))
    if count < 2 or abs(len(cameras) - len(frames)) > 3:  # a codec's 4k + 1 may cut up to three frames
        raise InputError(video, "", f"{len(frames)} frames, {len(cameras)} cameras", "a camera for each frame", "give the cameras it has")
    turned = flow_yaw(frames[:count], float(cameras.intrinsics[0, 0]), float(cameras.intrinsics[0, 2]))
    return turned, commanded_yaw(cameras.c2w[:count])


def evaluate_model(folder: Pathlike, controls: str = "l*12,none*12,j*24,none*12,l*12") -> dict[str, Any]:
    """Drive a world model with keys from an even test picture and compare the turning in its frames with the keys.

    returns: controls, frames, yaw_correlation, yaw_error_degrees
    """
    from moworld.camera.controls import controls_to_c2w
    from moworld.evaluation.speed import control_chunks, example_picture, open_session

    session, config = open_session(folder)
    picture = example_picture(config.height, config.width)
    session.open(picture, "a room with plain walls", seed=0)
    frames = np.concatenate([picture[None], *(session.step(keys) for keys in control_chunks(controls, 4 * config.model.chunk_latents))])
    wanted = commanded_yaw(controls_to_c2w(controls, step=config.move_units, degrees=config.yaw_degrees))
    count = min(len(frames), len(wanted) + 1)
    measured = flow_yaw(frames[:count], config.intrinsics[0], config.intrinsics[2])
    return {"controls": controls, "frames": count, **yaw_scores([measured], [wanted[: count - 1]])}


def yaw_scores(measured: list[Array], wanted: list[Array]) -> dict[str, float | None]:
    """Correlation and mean absolute difference, in degrees a frame, over all frames of all videos."""
    one, other = np.concatenate(measured), np.concatenate(wanted)
    return {"yaw_correlation": correlation(one, other), "yaw_error_degrees": float(np.abs(one - other).mean())}
