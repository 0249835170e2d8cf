"""Keyboard controls, such as "w*48,d*24", to camera-to-world matrices.

w s a d move forward, back, left, right along the camera's axes; j l turn left and right about the world's up axis (yaw);
i k look up and down (pitch, clamped at 85 degrees). Keys combine ("wl*8"). The form "w-10,iw-15,none-10" is also accepted.
"""

import copy
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from moworld.camera import se3
from moworld.errors import InputError

KEYS = "wasdijkl"
STEP = 1 / 54  # model units per frame, as published
DEGREES = 1.0  # degrees per frame, as published
MAX_PITCH_DEGREES = 85.0
MAX_FRAMES = 100_000
OPPOSITES = ("ws", "ad", "ik", "jl")
_TERM = re.compile(r"(none|[a-z]+)\s*[*-]\s*(\d+)|(none|[a-z]+)")

Array = NDArray[np.float64]
Keys = frozenset[str]


def controls_to_c2w(
    controls: str | Iterable[Iterable[str]], step: float = STEP, degrees: float = DEGREES, *, pitch_degrees: float | None = None
) -> Array:
    """Returns the poses along keyboard controls. Every action turns first, then moves along the turned camera's axes.

    controls: text such as "w*48,d*24", or the keys of every action
    step:     model units moved by one action; degrees: yaw (and pitch, unless pitch_degrees is given) of one action
    returns:  (T, 4, 4) float64 c2w, T = number of actions + 1, the first one the identity, OpenCV axes (world up is -y)
    Raises InputError for invalid controls.
    """
    actions = parse_controls(controls) if isinstance(controls, str) else [_checked(action) for action in controls]
    return np.concatenate([np.eye(4)[None], Walk(step, degrees, pitch_degrees).go(actions)])


class Walk:
    """The pose of a player as yaw, pitch and centre, changed by keys. Yaw is about the world's up axis at any pitch.

    step: model units moved by one action; degrees: yaw (and pitch, unless pitch_degrees is given) of one action
    """

    def __init__(self, step: float = STEP, degrees: float = DEGREES, pitch_degrees: float | None = None) -> None:
        self.step, self.degrees, self.pitch_degrees = step, degrees, degrees if pitch_degrees is None else pitch_degrees
        self.yaw, self.pitch, self.centre = 0.0, 0.0, np.zeros(3)

    def go(self, actions: Iterable[Iterable[str]]) -> Array:
        """Applies actions; returns the poses (number of actions, 4, 4) c2w after each. Raises InputError for invalid keys."""
        poses = []
        for keys in map(_checked, actions):
            self.yaw += self.degrees * (("l" in keys) - ("j" in keys))
            pitch = self.pitch + self.pitch_degrees * (("i" in keys) - ("k" in keys))
            self.pitch = float(np.clip(pitch, -MAX_PITCH_DEGREES, MAX_PITCH_DEGREES))
            move = np.array([("d" in keys) - ("a" in keys), 0.0, ("w" in keys) - ("s" in keys)])
            self.centre = self.centre + rotation_from_yaw_pitch(self.yaw, self.pitch) @ (self.step * move)
            poses.append(self.c2w)
        return np.stack(poses) if poses else np.zeros((0, 4, 4))

    @property
    def c2w(self) -> Array:
        """The current pose, (4, 4) c2w."""
        return se3.rigid(rotation_from_yaw_pitch(self.yaw, self.pitch), self.centre)

    def copy(self) -> "Walk":
        """Returns a walk that goes on from the same pose by itself."""
        return copy.copy(self)  # the centre is replaced at each step, never changed in place

    def set_pose(self, c2w: Array) -> None:
        """Continues from a pose (4, 4) c2w without its roll."""
        forward = np.asarray(c2w, dtype=np.float64)[:3, 2]
        self.yaw = float(np.degrees(np.arctan2(forward[0], forward[2])))
        self.pitch = float(np.degrees(np.arcsin(np.clip(-forward[1], -1, 1))))
        self.centre = np.array(c2w[:3, 3], dtype=np.float64)


def rotation_from_yaw_pitch(yaw_degrees: float, pitch_degrees: float) -> Array:
    """Returns the c2w rotation (3, 3): yaw to the right about the world's up axis, then pitch upwards about the camera's x axis."""
    yaw, pitch = np.radians(yaw_degrees), np.radians(pitch_degrees)
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return about_y @ about_x


def parse_controls(text: str) -> list[Keys]:
    """Returns the keys of every action: "w*2,none*1" -> [{w}, {w}, {}]. A term without a count is one action.

    Raises InputError for an invalid term.
    """
    actions: list[Keys] = []
    terms = [term.strip().lower() for term in text.split(",")]
    for number, term in enumerate(terms, start=1):
        match = _TERM.fullmatch(term)
        if match is None:
            raise _bad(f"term {number}", repr(term), 'keys and a count of frames, such as "w*48"')
        name, count = match[1] or match[3], int(match[2] or 1)
        keys = _checked([] if name == "none" else name, f"term {number}")
        if not 0 < count <= MAX_FRAMES - len(actions):
            raise _bad(f"term {number}", f"count {count}", f"a count of at least 1 and at most {MAX_FRAMES} actions in all")
        actions += [keys] * count
    return actions


def _checked(action: Iterable[str], where: str = "action") -> Keys:
    keys = frozenset(action)
    unknown = "".join(sorted(keys - set(KEYS)))
    if unknown:
        raise _bad(where, f"key {unknown!r}", f"keys of {' '.join(KEYS)}")
    for pair in OPPOSITES:
        if keys >= set(pair):
            raise _bad(where, f"{pair[0]} and {pair[1]} together", "keys that do not cancel each other")
    return keys


def _bad(where: str, found: str, expected: str) -> InputError:
    return InputError("controls", where, found, expected, 'write controls as "w*48,wl*8,none*4"')
