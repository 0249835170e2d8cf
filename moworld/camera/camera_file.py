"""What a camera file says, before the video's size is known: poses, lens, units, times, distortion, and the fields that are not used."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moworld.camera import se3
from moworld.camera.cameras import Cameras
from moworld.camera.lens import Distortion, Rectifier
from moworld.errors import InputError
from moworld.files import Pathlike

Array = NDArray[np.float64]
ROTATION_TOLERANCE = 5e-3  # published poses are products of float32 matrices; real shears and scales are far larger
FRACTION = 2.0  # intrinsics up to it are fractions of the picture's size in cx and cy, above it they are pixels
FOCAL_BOUNDS = (0.1, 20.0)  # of the picture's width or height: angles of view from 157 to 2.9 degrees
OFF_CENTRE = 0.1  # of the size: a pixel lens whose principal point is further from the centre belongs to a picture of another size
ASPECT_TOLERANCE = 0.01
MAX_PLACE = 1e12  # of a coordinate in any unit: millimetres on the earth are below 1e11; far larger ones overflow where they are squared
SQUARE_PIXELS = 1.25  # a larger ratio of focal lengths in pixels is named


@dataclass(frozen=True, eq=False)
class CameraFile:
    """Cameras of T frames as one file states them. `cameras` makes the project's cameras of it.

    w2c:        (T, 4, 4) world to camera, OpenCV axes
    intrinsics: (T, 4) fx, fy, cx, cy in pixels if `in_pixels`, otherwise as fractions of width, height, width, height
    image_hw:   image height and width that the file states, or None
    distortion: the lens's distortion, or None for a pinhole lens
    times:      (T,) seconds, strictly ascending, or None
    notes:      fields that are not used and readings that a user should see
    """

    path: Path
    w2c: Array
    intrinsics: Array
    in_pixels: bool
    image_hw: tuple[int, int] | None = None
    distortion: Distortion | None = None
    times: Array | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.w2c)

    def cameras(self, image_hw: tuple[int, int] | None = None, rectified: bool = False) -> Cameras:
        """Returns the cameras of pictures of a size (height, width).

        rectified: the pictures come from `rectified`, so the lens is the pinhole lens of `Rectifier`
        Raises InputError for a pixel lens without a size, a size of another shape, an implausible lens, and distortion that was not removed.
        """
        intrinsics = self.fractions(image_hw)
        if self.distortion is not None:
            if not rectified or image_hw is None:
                fix = "import the file beside its video, which removes the distortion, or undistort the pictures with COLMAP"
                raise InputError(self.path, "lens", f"distortion {self.distortion}", "a pinhole lens", fix)
            try:
                intrinsics = np.tile(Rectifier(self.distortion, image_hw).intrinsics, (len(self), 1))
            except ValueError as error:
                fix = "undistort the pictures with COLMAP"
                raise InputError(self.path, "lens", f"{self.distortion}: {error}", "a lens that can be undistorted", fix) from None
        return Cameras(intrinsics, self.w2c)

    def fractions(self, image_hw: tuple[int, int] | None) -> Array:
        """Returns the intrinsics (T, 4) as fractions of width, height, width, height. Raises InputError as `cameras` does."""
        self._require_shape(image_hw)
        size = self.image_hw or image_hw
        if self.in_pixels and size is None:
            found = f"intrinsics in pixels ({_shown(self.intrinsics[0])}) without an image size"
            fix = "read the file beside its video, or give the intrinsics as fractions of width and height"
            raise InputError(self.path, "intrinsics", found, "the size of the pictures", fix)
        fractions = self.intrinsics
        if self.in_pixels and size is not None:
            fractions = fractions / np.array([size[1], size[0], size[1], size[0]], dtype=np.float64)
            if self.image_hw is None and np.abs(fractions[:, 2:] - 0.5).max() > OFF_CENTRE:
                row = int(np.abs(fractions[:, 2:] - 0.5).max(axis=1).argmax())
                found = f"a principal point {_shown(self.intrinsics[row, 2:])} in a picture of {size[1]}x{size[0]}"
                fix = "scale the intrinsics to the video's size, or give them as fractions of width and height"
                raise InputError(self.path, f"row {row}", found, f"at most {OFF_CENTRE:g} of the size off the centre", fix)
        _require_plausible(self.path, fractions)
        return fractions

    def at_frames(self, num_frames: int, fps: float) -> "CameraFile":
        """Returns the file with one row per frame of a video.

        Row i is frame i if the numbers agree. Otherwise rows with times are interpolated at the frames' times (Slerp and linear), if
        they cover the video's length; the first row is the first frame.
        Raises InputError if neither holds.
        """
        notes = self.notes
        if len(self) == num_frames:
            if self.times is not None and (note := _rate_note(self.times, fps)):
                notes = (*notes, note)
            return replace(self, notes=notes)
        span = None if self.times is None else float(self.times[-1] - self.times[0])
        if self.times is None or span is None or abs(span - (num_frames - 1) / fps) > 1.5 / fps:
            covered = "" if span is None else f", or timestamps over {(num_frames - 1) / fps:.2f} s instead of {span:.2f} s"
            expected = f"{num_frames}, one for each frame of the video{covered}"
            raise InputError(self.path, "rows", f"{len(self)} cameras", expected, "use the camera file of this video")
        wanted = np.clip(np.arange(num_frames) / fps, 0, span)
        dense = Cameras(self.intrinsics, self.w2c).resample(np.interp(wanted, self.times - self.times[0], np.arange(len(self))))
        note = f"{len(self)} rows were interpolated at the times of {num_frames} frames"
        return replace(self, w2c=dense.w2c, intrinsics=dense.intrinsics, times=wanted, notes=(*notes, note))

    def _require_shape(self, image_hw: tuple[int, int] | None) -> None:
        if self.image_hw is None or image_hw is None:
            return
        (height, width), (real_height, real_width) = self.image_hw, image_hw
        if abs((width / height) / (real_width / real_height) - 1) > ASPECT_TOLERANCE:
            found, expected = f"pictures of {width}x{height}", f"the shape of the video's {real_width}x{real_height}"
            raise InputError(self.path, "image size", found, expected, "use the cameras of the uncropped video, or crop both")


def checked(
    path: Pathlike,
    intrinsics: ArrayLike,
    matrices: ArrayLike,
    c2w: bool = False,
    image_hw: tuple[int, int] | None = None,
    distortion: Distortion | None = None,
    times: Array | None = None,
    notes: tuple[str, ...] = (),
) -> CameraFile:
    """Returns the camera file of intrinsics (T, 4) and world-to-camera (or camera-to-world) matrices (T, 3 or 4, 4).

    Raises InputError with the row for NaN, far too large translations, matrices that are no rotation or transposed, and intrinsics of mixed units.
    """
    lens, poses = np.asarray(intrinsics, dtype=np.float64), np.asarray(matrices, dtype=np.float64)
    for row, matrix in enumerate(poses):
        _require_pose(path, f"row {row}", matrix)
        if not np.isfinite(lens[row]).all() or (lens[row, :2] <= 0).any():
            found = f"intrinsics {lens[row].tolist()}"
            raise _error(path, f"row {row}", found, "finite values with focal lengths above 0")
    pixels = np.abs(lens[:, 2:]).max(axis=1) > FRACTION
    if pixels.any() and not pixels.all():
        row = int(np.flatnonzero(pixels != pixels[0])[0])
        raise _error(path, f"row {row}", f"{_unit(pixels[row])} after {_unit(pixels[0])}", "one unit for all rows")
    rigid = se3.rigid(poses[:, :3, :3], poses[:, :3, 3])
    w2c = se3.invert(rigid) if c2w else rigid
    if not pixels.any():
        _require_plausible(path, lens)
        notes = (*notes, *_aspect_note(lens, image_hw))
    if len(w2c) > 1 and not np.ptp(se3.invert(w2c)[:, :3, 3], axis=0).any():
        notes = (*notes, "all camera centres are equal: the camera only turns")
    return CameraFile(Path(path), w2c, lens, bool(pixels.any()), image_hw, distortion, times, notes)


def _require_pose(path: Pathlike, row: str, matrix: Array) -> None:
    if not np.isfinite(matrix).all():
        raise _error(path, row, "NaN or infinity", "finite numbers")
    if np.abs(matrix[:3, 3]).max() > MAX_PLACE:
        raise _error(path, row, f"a translation of {np.abs(matrix[:3, 3]).max():.3g}", f"at most {MAX_PLACE:g}")
    rotation = matrix[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) <= 0:
        found = f"a matrix that is not a rotation (determinant {np.linalg.det(rotation):.3g})"
        raise _error(path, row, found, "a rotation, R R^T = I with determinant 1")
    if len(matrix) == 4 and np.abs(matrix[3] - [0, 0, 0, 1]).max() > ROTATION_TOLERANCE:
        transposed = ", which looks transposed" if matrix[3, 3] == 1 and not matrix[:3, 3].any() else ""
        raise _error(path, row, f"the last row {_shown(matrix[3])}{transposed}", "0 0 0 1, with the translation in the last column")


def _require_plausible(path: Pathlike, fractions: Array) -> None:
    low, high = FOCAL_BOUNDS
    for row, (fx, fy, cx, cy) in enumerate(fractions):
        if not (low <= fx <= high and low <= fy <= high):
            expected = f"{low:g} to {high:g} times the picture's width and height"
            raise _error(path, f"row {row}", f"focal lengths {fx:.4g}, {fy:.4g} of width and height", expected)
        if not (0 < cx < 1 and 0 < cy < 1):
            raise _error(path, f"row {row}", f"a principal point {cx:.4g}, {cy:.4g} of width and height", "a point inside the picture")


def _aspect_note(fractions: Array, image_hw: tuple[int, int] | None) -> tuple[str, ...]:
    if image_hw is None:
        return ()
    ratio = float(np.median(fractions[:, 0] * image_hw[1] / (fractions[:, 1] * image_hw[0])))
    return (f"the lens has pixels of aspect {ratio:.3g}",) if not 1 / SQUARE_PIXELS <= ratio <= SQUARE_PIXELS else ()


def _rate_note(times: Array, fps: float) -> str | None:
    steps = np.diff(times)
    if not len(steps):
        return None
    step = float(np.median(steps))
    if steps.max() > 1.5 * step:
        return f"timestamps are irregular (gaps of {step:.4g} to {steps.max():.4g} s) and not used: row i is frame i"
    if abs(step * fps - 1) > 0.02:
        return f"timestamps are {step:.4g} s apart, the video's frames {1 / fps:.4g} s; they are not used: row i is frame i"
    return None


def _unit(pixels: bool) -> str:
    return "pixels" if pixels else "fractions"


def _shown(values: ArrayLike) -> str:
    return " ".join(f"{value:g}" for value in np.asarray(values).ravel())


def _error(path: Pathlike, field: str, found: object, expected: str) -> InputError:
    return InputError(path, field, found, expected, "correct the camera file")
