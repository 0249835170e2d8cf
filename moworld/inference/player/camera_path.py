"""Camera of a realtime video session: motions and targets that arrive as events, turned into poses of the next chunk's frames.

Events have Unity's axes (x right, y up, z forward) and quaternions x y z w; poses have OpenCV axes (x right, y down, z forward). A motion is
the change over one latent frame (4 video frames) in the camera's own axes, and is held until another event; a target is a pose in the world
of the first frame, reached in a straight line. See docs/concepts/realtime-video.md.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moworld.camera.se3 import rigid

Array = NDArray[np.float64]
GROUP = 4  # video frames of a latent frame
STILL = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Pose:
    """A position (3,) and a unit quaternion x y z w (4,), in OpenCV axes."""

    position: Array
    rotation: Array

    @staticmethod
    def from_unity(translation: tuple[float, ...], rotation: tuple[float, ...]) -> "Pose":
        """Returns the pose of Unity's axes: mirroring y turns the signs of the rotation's x and z. Raises ValueError for a zero quaternion."""
        x, y, z, w = np.asarray(rotation, dtype=np.float64)
        length = float(np.linalg.norm((x, y, z, w)))
        if length < 1e-6:
            raise ValueError("the quaternion is zero")
        return Pose(np.array(translation, dtype=np.float64) * (1, -1, 1), np.array((-x, y, -z, w)) / length)

    @staticmethod
    def identity() -> "Pose":
        return Pose(np.zeros(3), np.array(STILL))

    @property
    def matrix(self) -> Array:
        """The pose as c2w (4, 4)."""
        return rigid(_matrix(self.rotation), self.position)

    def then(self, motion: "Pose") -> "Pose":
        """Returns this pose after a motion in its own axes."""
        rotation = _product(self.rotation, motion.rotation)
        return Pose(self.position + _matrix(self.rotation) @ motion.position, rotation / np.linalg.norm(rotation))

    def towards(self, other: "Pose", share: float) -> "Pose":
        """Returns the pose at a share of the way: linear positions, and rotations at constant angular speed (slerp)."""
        change = _product(self.rotation * (-1, -1, -1, 1), other.rotation)
        if change[3] < 0:  # the shorter way round
            change = -change
        sine = float(np.linalg.norm(change[:3]))
        half = share * np.arctan2(sine, change[3])
        part = np.append(change[:3] / sine * np.sin(half), np.cos(half)) if sine > 1e-9 else np.array(STILL)
        rotation = _product(self.rotation, part)
        return Pose(self.position + share * (other.position - self.position), rotation / np.linalg.norm(rotation))

    @property
    def level(self) -> bool:
        """Whether the rotation is about the vertical axis alone, to a thousandth: neither pitch nor roll."""
        return bool(np.abs(self.rotation[[0, 2]]).max() < 5e-4)


@dataclass
class CameraEvent:
    """An event: the change over a latent frame ("velocity"), or the pose to reach after `chunks` chunks ("target")."""

    event_id: str
    mode: str
    pose: Pose
    chunks: int = 1


@dataclass
class CameraPath:
    """The camera's pose now, and the event that moves it. `add` queues an event for the next chunk."""

    pose: Pose = field(default_factory=Pose.identity)
    active: CameraEvent | None = None
    queued: list[CameraEvent] = field(default_factory=list)
    source: Pose = field(default_factory=Pose.identity)
    done: int = 0  # frames of the active target

    def add(self, event: CameraEvent) -> None:
        self.queued.append(event)

    def next_chunk(self, frames: int) -> tuple[Array, list[str], list[str]]:
        """Returns poses c2w (frames, 4, 4), and ids of the events that began and that ended. Of several that are queued, the last one moves."""
        began, ended = [event.event_id for event in self.queued], []
        for event in self.queued:
            if self.active is not None:
                ended.append(self.active.event_id)
            self.active, self.source, self.done = event, self.pose, 0
        self.queued = []
        poses = []
        for _ in range(frames):
            if self.active is not None and self.active.mode == "velocity":
                self.pose = self.pose.then(Pose.identity().towards(self.active.pose, 1 / GROUP))
            elif self.active is not None:
                self.done += 1
                whole = max(1, self.active.chunks * frames)  # 0 chunks: at the next frame
                self.pose = self.active.pose if self.done >= whole else self.source.towards(self.active.pose, self.done / whole)
                if self.done >= whole:
                    ended.append(self.active.event_id)
                    self.active = None
            poses.append(self.pose.matrix)
        return np.stack(poses), began, ended


def _product(first: Array, second: Array) -> Array:
    """Returns the Hamilton product of quaternions x y z w: the rotation `second`, then `first`."""
    a, b, v, w = first[3], second[3], first[:3], second[:3]
    return np.append(a * w + b * v + np.cross(v, w), a * b - v @ w)


def _matrix(quaternion: Array) -> Array:
    """Returns the rotation (3, 3) of a unit quaternion x y z w."""
    x, y, z, w = quaternion
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross
