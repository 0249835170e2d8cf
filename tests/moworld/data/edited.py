"""Edited footage with known transitions, made from several synthetic scenes: for measuring how well shots are found."""

from collections.abc import Callable

import cv2
import numpy as np

SIZE_HW = (90, 160)
Frames = list[np.ndarray]
Event = tuple[int, int]  # first and last frame number of a transition; equal for a cut, before the frame


def picture(seed: int, height: int = 600, width: int = 1600) -> np.ndarray:
    """A large picture of soft colours, boxes, discs and lines in a palette of its own."""
    g = np.random.default_rng(seed)
    palette = g.integers(20, 236, (6, 3))
    cells = palette[g.integers(0, 6, (height // 100, width // 100))].astype(np.uint8)
    image = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(160):
        colour, at = tuple(map(int, palette[g.integers(6)] * g.uniform(0.6, 1.0))), g.integers(0, (width, height))
        size = g.integers(10, 90, 2)
        kind = g.integers(3)
        if kind == 0:
            cv2.rectangle(image, tuple(map(int, at)), tuple(map(int, at + size)), colour, -1)
        elif kind == 1:
            cv2.circle(image, tuple(map(int, at)), int(size[0] // 2), colour, -1)
        else:
            cv2.line(image, tuple(map(int, at)), tuple(map(int, at + 3 * (size - 50))), colour, int(g.integers(2, 8)))
    return cv2.GaussianBlur(image, (0, 0), 1.0)


class Scene:
    """A scene whose frame at any time can be drawn: the camera pans over a picture, or walks into it, with a sensor's noise."""

    def __init__(self, seed: int) -> None:
        g = np.random.default_rng(seed)
        self.image, self.kind, self.noise = picture(seed), ("pan", "walk", "orbit")[seed % 3], g
        self.speed = float(g.uniform(1.0, 4.0))
        self.at = np.array([g.uniform(300, 500), g.uniform(250, 350)])

    def frame(self, time: float) -> np.ndarray:
        height, width = SIZE_HW
        zoom, angle, centre = 1.6, 0.0, self.at.copy()
        if self.kind == "pan":
            centre[0] += self.speed * time
        elif self.kind == "walk":
            zoom *= 1.006 ** (self.speed * time)
            centre += [0.5 * time, 2 * np.sin(time / 5)]
        else:
            angle, zoom = 0.4 * self.speed * time, 1.6 + 0.1 * np.sin(time / 20)
            centre += [self.speed * time, 0]
        matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), angle, zoom)
        matrix[:, 2] += [width / 2 - centre[0], height / 2 - centre[1]]
        drawn = cv2.warpAffine(self.image, matrix, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
        return np.clip(drawn + self.noise.normal(0, 2, drawn.shape), 0, 255).astype(np.uint8)

    def frames(self, start: float, count: int) -> Frames:
        return [self.frame(start + i) for i in range(count)]


def mix(one: Frames, other: Frames) -> Frames:
    """One scene dissolves into the other."""
    shares = np.linspace(0, 1, len(one) + 2)[1:-1]
    return [np.rint(a * (1 - s) + b.astype(float) * s).astype(np.uint8) for a, b, s in zip(one, other, shares, strict=True)]


def fade(frames: Frames, colour: int, out: bool) -> Frames:
    """Fades to or from one grey level."""
    flat = [np.full_like(frame, colour) for frame in frames]
    return mix(frames, flat) if out else mix(flat, frames)


def transition(kind: str, before: Scene, after: Scene, g: np.random.Generator) -> tuple[Frames, list[Event]]:
    """Frames of two shots with a transition between them, and its frame numbers; distractors have none."""
    first = before.frames(0, 30)
    if kind == "cut":
        return first + after.frames(0, 30), [(30, 30)]
    if kind == "jump":
        return first + before.frames(30 + int(g.integers(25, 50)), 30), [(30, 30)]
    if kind == "dissolve":
        length = int(g.choice([8, 12, 16, 24, 32]))
        middle = mix(before.frames(30, length), after.frames(0, length))
        return first + middle + after.frames(length, 30), [(30, 30 + length)]
    if kind in ("fade black", "fade white"):
        colour, length = (2, 250)[kind == "fade white"], int(g.integers(6, 16))
        middle = fade(before.frames(30, length), colour, True) + [np.full_like(first[0], colour)] * 4 + fade(after.frames(0, length), colour, False)
        return first + middle + after.frames(length, 30), [(30, 34 + 2 * length)]
    return distractor(kind, before, after, g), []


def distractor(kind: str, scene: Scene, other: Scene, g: np.random.Generator) -> Frames:
    """Frames of one shot in which something happens that is no transition."""
    frames = scene.frames(0, 70)
    if kind == "flash":
        for index in range(30, 30 + int(g.integers(1, 4))):
            frames[index] = np.clip(frames[index].astype(int) + 170, 0, 255).astype(np.uint8)
    elif kind == "whip":
        times = np.concatenate([np.arange(30), 30 + np.cumsum(np.r_[8, np.full(6, 60 / scene.speed), 8]), 450 / scene.speed + np.arange(30)])
        scene.kind = "pan"
        frames = [cv2.blur(scene.frame(time), (9, 1)) if 30 <= i < 38 else scene.frame(time) for i, time in enumerate(times)]
    elif kind == "inset":
        for index, frame in enumerate(frames):
            frame[50:85, 110:155] = other.frame(index if index < 35 else 200 + index)[50:85, 110:155]
    elif kind == "exposure":
        frames = [np.clip(frame * (1 + 0.6 * np.clip((index - 30) / 6, 0, 1)), 0, 255).astype(np.uint8) for index, frame in enumerate(frames)]
    elif kind == "repeated":
        frames = [frame for frame in scene.frames(0, 24) for _ in range(3)]
    elif kind == "passer":
        for index, frame in enumerate(frames[30:42]):
            cv2.rectangle(frame, (index * 20 - 60, 0), (index * 20, 90), (60, 40, 40), -1)
    return frames


TRANSITIONS = ("cut", "jump", "dissolve", "fade black", "fade white")
DISTRACTORS = ("flash", "whip", "inset", "exposure", "repeated", "passer")


def scores(find: Callable[[Frames], list[Event]], seeds: range, kinds: tuple[str, ...] = TRANSITIONS + DISTRACTORS) -> dict[str, tuple[int, int, int]]:
    """Returns (found, missed, false) transitions of each kind. find: frames to the frame numbers of the transitions it finds."""
    table: dict[str, tuple[int, int, int]] = {}
    for number, kind in enumerate(kinds):
        good = missed = false = 0
        for seed in seeds:
            g = np.random.default_rng([seed, number])
            frames, expected = transition(kind, Scene(2 * seed), Scene(2 * seed + 1), g)
            found = find(frames)
            hit = [any(a <= end + 2 and b >= start - 2 for a, b in found) for start, end in expected]
            wrong = [not any(a <= end + 2 and b >= start - 2 for start, end in expected) for a, b in found]
            good, missed, false = good + sum(hit), missed + len(hit) - sum(hit), false + sum(wrong)
        table[kind] = good, missed, false
    return table


def f1(table: dict[str, tuple[int, int, int]]) -> float:
    good, missed, false = (sum(row[index] for row in table.values()) for index in range(3))
    return 2 * good / max(2 * good + missed + false, 1)
