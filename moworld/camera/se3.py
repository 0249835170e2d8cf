"""Rigid motions and similarities as 4x4 matrices, in numpy: inversion, angles and alignment. Results are new float64 arrays."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def invert(matrix: ArrayLike) -> Array:
    """Returns the inverse of (..., 4, 4) rigid motions: [R|t] -> [R^T|-R^T t]. R must be a rotation, which readers check."""
    matrix = np.asarray(matrix, dtype=np.float64)
    rotation = np.swapaxes(matrix[..., :3, :3], -1, -2)
    return rigid(rotation, -(rotation @ matrix[..., :3, 3:])[..., 0])


def rigid(rotation: ArrayLike, translation: ArrayLike) -> Array:
    """Returns (..., 4, 4) of rotations (..., 3, 3) and translations (..., 3)."""
    rotation, translation = np.asarray(rotation, dtype=np.float64), np.asarray(translation, dtype=np.float64)
    matrix = np.zeros((*np.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1]), 4, 4))
    matrix[..., :3, :3] = rotation
    matrix[..., :3, 3] = translation
    matrix[..., 3, 3] = 1.0
    return matrix


def rotation_angle_degrees(rotation: ArrayLike) -> Array:
    """Returns the angle of (..., 3, 3) or (..., 4, 4) rotations in degrees, 0 to 180; accurate at small angles, unlike arccos."""
    from scipy.spatial.transform import Rotation

    return np.degrees(Rotation.from_matrix(np.asarray(rotation, dtype=np.float64)[..., :3, :3]).magnitude())


def rotation_steps_degrees(c2w: ArrayLike) -> Array:
    """Returns the angles in degrees between successive poses (T, 4, 4): (T - 1,)."""
    r = np.asarray(c2w, dtype=np.float64)[:, :3, :3]
    return rotation_angle_degrees(np.swapaxes(r[:-1], -1, -2) @ r[1:])


def umeyama(source: ArrayLike, target: ArrayLike) -> tuple[float, Array, Array]:
    """Returns the least-squares similarity target = scale * R source + t (Umeyama 1991).

    source, target: (N, 3) corresponding points, N >= 3 for a unique rotation
    returns: scale, rotation (3, 3) with determinant 1, translation (3,)
    Raises ValueError if the shapes differ or all source points coincide.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3:
        raise ValueError(f"source {source.shape} and target {target.shape} must both be (N, 3)")
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    centred_source, centred_target = source - mean_source, target - mean_target
    variance = (centred_source**2).sum() / len(source)
    if variance == 0.0:
        raise ValueError("the source points coincide: no similarity is determined")
    u, singular, vt = np.linalg.svd(centred_target.T @ centred_source / len(source))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(signs) @ vt
    scale = float((singular * signs).sum() / variance)
    return scale, rotation, mean_target - scale * rotation @ mean_source


def align(source_c2w: ArrayLike, target_c2w: ArrayLike) -> Array:
    """Returns source_c2w (T, 4, 4) in the target's world, by the similarity of the camera centres."""
    source_c2w, target_c2w = np.asarray(source_c2w, dtype=np.float64), np.asarray(target_c2w, dtype=np.float64)
    scale, rotation, translation = umeyama(source_c2w[:, :3, 3], target_c2w[:, :3, 3])
    return rigid(rotation @ source_c2w[:, :3, :3], scale * source_c2w[:, :3, 3] @ rotation.T + translation)


def centre_error_rms(source_c2w: ArrayLike, target_c2w: ArrayLike) -> float:
    """Returns the absolute trajectory error after Sim(3) alignment: RMS distance of camera centres, in the target's units."""
    aligned = align(source_c2w, target_c2w)
    return float(np.sqrt(((aligned[:, :3, 3] - np.asarray(target_c2w)[:, :3, 3]) ** 2).sum(axis=1).mean()))
