"""Scene captions without camera motion (paper 2, stage 3): detected by phrases, and by sentence meaning where the phrases differ."""

import re
from functools import cache
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
CAMERA_SENTENCES = (
    "The camera moves forward through the scene.",
    "The view slowly turns to the left.",
    "The shot pans across the room.",
    "We walk forward and look around.",
    "The viewpoint rises and flies over the landscape.",
    "The footage was filmed from a moving vehicle.",
    "The perspective shifts as the viewer advances.",
    "The frame zooms in on the object.",
    "Seen while circling around the object.",
    "Travelling along the corridor, the footage reveals a door.",
)
SCENE_SENTENCES = (
    "A dark hall with stone walls and barrels.",
    "A person walks along the street.",
    "Cars move along a busy road.",
    "A river flows through a green valley.",
    "A security camera hangs on the wall.",
    "Trees sway in the wind under a bright sky.",
    "A narrow room with a table and a vase of flowers.",
    "The scene has a brown tint, in the style of an early 3D game.",
    "A large open place, in the style of a game.",
    "A frying pan lies on a stove.",
    "A shop sells cameras and lenses.",
    "A painting of a ship hangs above the fireplace.",
    "A drone is parked on the grass.",
    "People dance in a circle.",
)
MARGIN = 0.12  # smallest margin (see motion_margins) of a sentence about camera motion


def mentions_camera_motion(text: str) -> list[str]:
    """Returns the phrases of a text that mention camera motion, and sentences that mean it in other words; empty for a clean caption."""
    phrases = [match.group(0) for match in MOTION.finditer(text)]
    sentences = [part.strip() for part in re.split(r"(?<=[.!?;])\s+", text) if len(part.split()) > 2]
    caught = [sentence for sentence in sentences if not MOTION.search(sentence)]
    return phrases + ([s for s, near in zip(caught, motion_margins(caught), strict=True) if near > MARGIN] if caught else [])


def motion_margins(sentences: list[str]) -> list[float]:
    """Returns how much nearer (cosine) each sentence is to the nearest camera sentence than to the nearest scene sentence."""
    known, own = _embedded(CAMERA_SENTENCES + SCENE_SENTENCES), _embedded(tuple(sentences))
    cosines = own @ known.T
    return (cosines[:, : len(CAMERA_SENTENCES)].max(axis=1) - cosines[:, len(CAMERA_SENTENCES) :].max(axis=1)).tolist()  # type: ignore[no-any-return]


@cache
def _encoder() -> Any:
    from moworld.model.text import TextSettings, make_text_encoder

    return make_text_encoder(TextSettings(kind="minilm", length=48))


@cache
def _embedded(sentences: tuple[str, ...]) -> np.ndarray:
    """Returns (N, 384) unit vectors: MiniLM's mean over the words of each sentence, as it was trained."""
    hidden = _encoder().encode(list(sentences)).numpy()
    words = (np.abs(hidden).sum(axis=2, keepdims=True) > 0).astype(np.float32)
    mean = (hidden * words).sum(axis=1) / words.sum(axis=1).clip(1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-9))


def scene_caption(facts: dict[str, Any]) -> str:
    """Returns a caption from an engine's scene facts: light, colour, extent, visible objects."""
    rgb = np.asarray(facts.get("mean_rgb", [80, 80, 80]), dtype=float)
    depth = float(facts.get("median_depth_units", 200))
    place = "large open place" if depth > 350 else "hall" if depth > 160 else "narrow room"
    objects = [name for name, _ in sorted(facts.get("objects", {}).items(), key=lambda item: -float(item[1]))][:3]
    seen = f" with {', '.join(split_name(name) for name in objects)}" if objects else ""
    return f"{light(float(facts.get('brightness', rgb.mean())))} {tint(rgb)} {place}{seen}, in the style of an early 3D game"


def appearance_caption(mean_rgb: list[float]) -> str:
    """Returns a neutral caption of a clip of which only the pixels are known."""
    rgb = np.asarray(mean_rgb, dtype=float)
    return f"{light(float(rgb.mean()))} scene in {tint(rgb)} colours"


def light(brightness: float) -> str:
    return "A dark" if brightness < 50 else "A dimly lit" if brightness < 75 else "A lit" if brightness < 120 else "A bright"


def tint(rgb: np.ndarray) -> str:
    spread = rgb - rgb.mean()
    return "grey" if np.abs(spread).max() < 8 else ("reddish", "greenish", "bluish")[int(spread.argmax())] if spread[2] > -8 else "brown"


def split_name(name: str) -> str:
    """Splits an engine name into words: `HealthBonus` -> `health bonus`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
