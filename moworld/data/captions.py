"""Scene captions without camera motion (paper 2, stage 3): found by phrases in eleven languages."""

import codecs
import math
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from moworld.data.camera_words import motion_patterns

MAX_CAPTION, MAX_CAPTION_BYTES = 2000, 16_000  # characters, as contract captions allows; bytes of a file
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
                    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
QUOTED = re.compile(r"""(?<!^)["“«„「『][^"”»“」』]{1,80}["”»“」』]|\b(?:reads?|says?|saying)\b:?(?:\s+\w+){1,5}""", re.IGNORECASE)
# Characters per word where words have no spaces between them, on average: Chinese and Japanese 2, Thai, Lao, Burmese and Khmer 5.
UNSPACED = ((re.compile(r"[\u2e80-\u3005\u3007-\u303f\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"), 2),
            (re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+"), 5))  # fmt: skip
ARABIC_VOWELS = re.compile(r"[\u0640\u064b-\u0652]")  # optional marks and the stretching sign
KATAKANA = re.compile(r"[\u30a0-\u30ff\uff66-\uff9f]+")  # one word each


def mentions_camera_motion(text: str) -> list[str]:
    """Returns the phrases of a text that mention camera motion, in eleven languages; empty for a clean caption.

    What a sign in the scene says does not count.
    """
    shown = ARABIC_VOWELS.sub("", QUOTED.sub(" ", " ".join(unicodedata.normalize("NFC", text).split())))
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


def read_caption_file(video: Path) -> tuple[str | None, str]:
    """Returns the caption in VIDEO's `.prompt.txt`, None without one, and what is wrong with the file, "" if nothing is.

    UTF-8, or UTF-16 and UTF-32 with a byte order mark. A faulty caption is no error: the video is imported without it.
    """
    path = video.with_suffix(".prompt.txt")
    if not path.exists():
        return None, ""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_CAPTION_BYTES + 1)
    except OSError as error:
        return None, f"{path.name}: {error.strerror}"
    if len(content) > MAX_CAPTION_BYTES:
        return None, f"{path.name}: more than {MAX_CAPTION_BYTES} bytes"
    mark = next((mark for mark in BYTE_ORDER_MARKS if content.startswith(mark)), b"")
    try:
        text = " ".join(unicodedata.normalize("NFC", content.decode(BYTE_ORDER_MARKS.get(mark, "utf-8"))).split())
    except UnicodeDecodeError:
        return None, f"{path.name}: text that is not UTF-8; save it as UTF-8"
    if any(unicodedata.category(one) in ("Cc", "Co", "Cn") for one in text):
        return None, f"{path.name}: control characters, which no caption has"
    if not count_words(text):
        return None, f"{path.name}: no word"
    if len(text) > MAX_CAPTION:
        return None, f"{path.name}: {len(text)} characters, more than {MAX_CAPTION}"
    return text, ""


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
