"""Scene captions without camera motion (paper 2, stage 3): found by phrases in eleven languages."""

import math
import re
import unicodedata
from typing import Any

import numpy as np

from moworld.data.camera_words import motion_patterns

QUOTED = re.compile(r"""(?<!^)["“«„「『][^"”»“」』]{1,80}["”»“」』]|\b(?:reads?|says?|saying)\b:?(?:\s+\w+){1,5}""", re.IGNORECASE)
# Characters per word where words have no spaces between them, on average: Chinese and Japanese 2, Thai, Lao, Burmese and Khmer 5.
UNSPACED = ((re.compile(r"[\u2e80-\u3005\u3007-\u303f\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"), 2),
            (re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+"), 5))  # fmt: skip
KATAKANA = re.compile(r"[\u30a0-\u30ff\uff66-\uff9f]+")  # one word each


def mentions_camera_motion(text: str) -> list[str]:
    """Returns the phrases of a text that mention camera motion, in eleven languages; empty for a clean caption.

    What a sign in the scene says does not count.
    """
    shown = QUOTED.sub(" ", " ".join(unicodedata.normalize("NFC", text).split()))
    spans = sorted(match.span() for pattern in motion_patterns() for match in pattern.finditer(shown))
    phrases = list[str]()
    end = 0
    for start, stop in spans:  # languages share words: a place counts once
        if start >= end:
            phrases.append(shown[start:stop].strip(" .,;:"))
        end = max(end, stop)
    return phrases


def count_words(text: str) -> int:
    """Returns the number of words of a text; an estimate for scripts that write no spaces between words."""
    count = 0
    for pattern, size in ((KATAKANA, 0), *UNSPACED):
        for run in pattern.findall(text):
            letters = sum(unicodedata.category(one)[0] in "LN" for one in run)
            count += (math.ceil(letters / size) if size else 1) if letters else 0
        text = pattern.sub(" ", text)
    return count + sum(any(one.isalnum() for one in word) for word in text.split())


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
