"""Scene captions with the camera's motion kept out (paper 2, stage 3)."""

import re
from typing import Any

import numpy as np

MOTION = re.compile(
    r"\b(camera|viewer|viewpoint)\s+(\w+\s+)?(pan|tilt|zoom|mov|turn|rotat|orbit|track|doll|fl|glid|follow|travel|push|pull)\w*"
    r"|\b(pan|tilt|zoom)(s|ning|ming|ing|ned|med)\s+(left|right|up|down|in|out|across|over)\b"
    r"|(^|[.,;:]\s*|\b(slow|slowly|quick|quickly|smooth|gentle|steady|to|then|and)\s+)(pan|tilt|zoom)\s+(left|right|up|down|in|out|across|over)\b"
    r"|\b(we|you)\s+(\w+ly\s+)?(move|walk|turn|fly|go|travel|glide|advance)\b"
    r"|\b(dolly|tracking|panning|orbiting|handheld|first-person)\s+(shot|view|movement)\b"
    r"|\b(moving|walking|turning|rotating|flying)\s+(forward|backward|left|right|through)\b",
    re.IGNORECASE,
)


def mentions_camera_motion(text: str) -> list[str]:
    """The phrases of a text that speak of the camera's motion; empty for a clean caption."""
    return [match.group(0) for match in MOTION.finditer(text)]


def scene_caption(facts: dict[str, Any]) -> str:
    """A caption from what the engine says of a scene: light, colour, extent, visible objects."""
    rgb = np.asarray(facts.get("mean_rgb", [80, 80, 80]), dtype=float)
    depth = float(facts.get("median_depth_units", 200))
    place = "large open place" if depth > 350 else "hall" if depth > 160 else "narrow room"
    objects = [name for name, _ in sorted(facts.get("objects", {}).items(), key=lambda item: -float(item[1]))][:3]
    seen = f" with {', '.join(split_name(name) for name in objects)}" if objects else ""
    return f"{light(float(facts.get('brightness', rgb.mean())))} {tint(rgb)} {place}{seen}, in the style of an early 3D game"


def appearance_caption(mean_rgb: list[float]) -> str:
    """A neutral caption of a clip of which nothing but its pixels is known."""
    rgb = np.asarray(mean_rgb, dtype=float)
    return f"{light(float(rgb.mean()))} scene in {tint(rgb)} colours"


def light(brightness: float) -> str:
    return "A dark" if brightness < 50 else "A dimly lit" if brightness < 75 else "A lit" if brightness < 120 else "A bright"


def tint(rgb: np.ndarray) -> str:
    spread = rgb - rgb.mean()
    return "grey" if np.abs(spread).max() < 8 else ("reddish", "greenish", "bluish")[int(spread.argmax())] if spread[2] > -8 else "brown"


def split_name(name: str) -> str:
    """Engine names as words: `HealthBonus` -> `health bonus`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
