"""Keyboard controls and poses: "w*48,d*24" to camera-to-world matrices and back.

w s a d move forward, back, left, right along the camera's own axes; j l turn left and right about the world's up axis (yaw);
i k look up and down (pitch, clamped at 85 degrees). Keys combine ("wl*8"); "w-10,iw-15,none-10" is read, too.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moworld.camera import se3
from moworld.errors import InputError
from moworld.files import Pathlike

KEYS = "wasdijkl"
STEP = 1 / 54  # model units a frame, as published
DEGREES = 1.0  # degrees a frame, as published
MAX_PITCH_DEGREES = 85.0
MAX_FRAMES = 100_000
_OPPOSITES = ("ws", "ad", "ik", "jl")
_TERM = re.compile(r"(none|[a-z]+)\s*[*-]\s*(\d+)|(none|[a-z]+)")

Array = NDArray[np.float64]
Keys = frozenset[str]


def controls_to_c2w(
    controls: str | Iterable[Iterable[str]], step: float = STEP, degrees: float = DEGREES, *, pitch_degrees: float | None = None
) -> Array:
    """Poses along keyboard controls. Every action turns first, then moves along the turned camera's axes.

    controls: text as "w*48,d*24", or the keys of every action
    step:     model units moved by one action; degrees: yaw (and pitch, unless pitch_degrees is given) of one action
    returns:  (T, 4, 4) float64 c2w, T = number of actions + 1, the first one the identity, OpenCV axes (world up is -y)
    Raises InputError for text that is no control.
    """
    actions = parse_controls(controls) if isinstance(controls, str) else [_checked(action) for action in controls]
    return np.concatenate([np.eye(4)[None], Walk(step, degrees, pitch_degrees).go(actions)])


class Walk:
    """Where a player stands: yaw, pitch and centre, moved by keys. Yaw stays about the world's up axis, however far the view is pitched.

    step: model units moved by one action; degrees: yaw (and pitch, unless pitch_degrees is given) of one action
    """

    def __init__(self, step: float = STEP, degrees: float = DEGREES, pitch_degrees: float | None = None) -> None:
        self.step, self.degrees, self.pitch_degrees = step, degrees, degrees if pitch_degrees is None else pitch_degrees
        self.yaw, self.pitch, self.centre = 0.0, 0.0, np.zeros(3)

    def go(self, actions: Iterable[Iterable[str]]) -> Array:
        """Poses (number of actions, 4, 4) c2w after each action. Raises InputError for keys that are no control."""
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
        """The pose now, (4, 4) c2w."""
        return se3.rigid(rotation_from_yaw_pitch(self.yaw, self.pitch), self.centre)

    def stand_at(self, c2w: Array) -> None:
        """Go on from a pose (4, 4); its roll is not kept."""
        forward = np.asarray(c2w, dtype=np.float64)[:3, 2]
        self.yaw = float(np.degrees(np.arctan2(forward[0], forward[2])))
        self.pitch = float(np.degrees(np.arcsin(np.clip(-forward[1], -1, 1))))
        self.centre = np.array(c2w[:3, 3], dtype=np.float64)


def rotation_from_yaw_pitch(yaw_degrees: float, pitch_degrees: float) -> Array:
    """c2w rotation (3, 3): yaw to the right about the world's up axis, then pitch upwards about the camera's x axis."""
    yaw, pitch = np.radians(yaw_degrees), np.radians(pitch_degrees)
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return about_y @ about_x


def parse_controls(text: str) -> list[Keys]:
    """Keys of every action: "w*2,none*1" -> [{w}, {w}, {}]. A term without a count is one action.

    Raises InputError naming the term that is no control, and for no action at all.
    """
    actions: list[Keys] = []
    terms = [term.strip().lower() for term in text.split(",")]
    for number, term in enumerate(terms, start=1):
        match = _TERM.fullmatch(term)
        if match is None:
            raise _bad(f"term {number}", repr(term), 'keys and a count, as "w*48"')
        name, count = match[1] or match[3], int(match[2] or 1)
        keys = _checked([] if name == "none" else name, f"term {number}")
        if not 0 < count <= MAX_FRAMES - len(actions):
            raise _bad(f"term {number}", f"count {count}", f"a count of at least 1 and at most {MAX_FRAMES} actions in all")
        actions += [keys] * count
    return actions


def format_controls(actions: Iterable[Iterable[str]]) -> str:
    """The text that parse_controls reads back: equal neighbours are joined."""
    terms: list[tuple[str, int]] = []
    for action in actions:
        name = "".join(key for key in KEYS if key in frozenset(action)) or "none"
        if terms and terms[-1][0] == name:
            terms[-1] = (name, terms[-1][1] + 1)
        else:
            terms.append((name, 1))
    return ",".join(f"{name}*{count}" for name, count in terms)


def controls_from_c2w(c2w: ArrayLike, step: float = STEP, degrees: float = DEGREES, *, tolerance: float = 0.5) -> list[Keys]:
    """The keys that bring each pose to the next one: the inverse of controls_to_c2w.

    c2w:       (T, 4, 4) in the units of `step`; the world's up axis is the first camera's -y
    tolerance: share of a step or of `degrees` from which a key counts as pressed
    returns:   T - 1 key sets
    """
    c2w = np.asarray(c2w, dtype=np.float64)
    relative = se3.invert(c2w[0]) @ c2w
    forward = relative[:, :3, 2]
    yaw = np.unwrap(np.arctan2(forward[:, 0], forward[:, 2]))
    yaw_steps = np.degrees(np.diff(yaw)) / degrees
    pitch_steps = np.diff(np.degrees(np.arcsin(np.clip(-forward[:, 1], -1, 1)))) / degrees
    moves = np.einsum("tji,tj->ti", relative[1:, :3, :3], np.diff(relative[:, :3, 3], axis=0)) / step
    actions = []
    for yaw_step, pitch_step, (right, _, ahead) in zip(yaw_steps, pitch_steps, moves, strict=True):
        amounts = {"l": yaw_step, "j": -yaw_step, "i": pitch_step, "k": -pitch_step, "d": right, "a": -right, "w": ahead, "s": -ahead}
        actions.append(frozenset(key for key, amount in amounts.items() if amount > tolerance))
    return actions


def read_actions(folder: Pathlike, num_frames: int) -> list[Keys]:
    """Keys of every frame from wasd_action.npy and ijkl_action.npy (T, 4), or from action.npy, in a folder.

    num_frames: number of poses that the actions belong to
    Raises InputError when no file is there or its rows are not as many as the poses.
    """
    found = [(Path(folder) / f"{names}_action.npy", names) for names in ("wasd", "ijkl")]
    found = [(path, names) for path, names in found if path.exists()] or [(Path(folder) / "action.npy", "wasd")]
    frames: list[set[str]] = [set() for _ in range(num_frames)]
    for path, names in found:
        if not path.exists():
            raise InputError(path, "", "no such file", "wasd_action.npy, ijkl_action.npy or action.npy", "put the actions beside the poses")
        rows = np.load(path, allow_pickle=False)
        if rows.shape != (num_frames, 4):
            raise InputError(path, "rows", rows.shape, f"({num_frames}, 4), a row for each pose", "take the actions of these poses")
        for frame, row in zip(frames, rows, strict=True):
            frame.update(key for key, value in zip(names, row, strict=True) if value > 0)
    return [frozenset(frame) for frame in frames]


def _checked(action: Iterable[str], where: str = "action") -> Keys:
    keys = frozenset(action)
    unknown = "".join(sorted(keys - set(KEYS)))
    if unknown:
        raise _bad(where, f"key {unknown!r}", f"keys of {' '.join(KEYS)}")
    for pair in _OPPOSITES:
        if keys >= set(pair):
            raise _bad(where, f"{pair[0]} and {pair[1]} together", "keys that do not cancel each other")
    return keys


def _bad(where: str, found: str, wanted: str) -> InputError:
    return InputError("controls", where, found, wanted, 'write controls as "w*48,wl*8,none*4"')
