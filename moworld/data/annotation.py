"""Captions by a vision model behind any OpenAI-compatible endpoint: vLLM or MindIE serving Qwen-VL on a pool, or a service (paper 2, stage 3).

Frames of a clip are sent, a description comes back. What was answered is kept in a journal, so a run that was cut asks for nothing twice.
"""

import base64
import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from moworld.data.captions import mentions_camera_motion
from moworld.data.clips import Clip
from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.settings import Settings
from moworld.video import iterate_frames

PROMPT = (
    "These pictures are frames of one video, in order. Describe the scene in one or two sentences: place, things, materials, light, weather,"
    ' style. Do not say how the camera or the viewer moves, and do not mention frames or a video. Answer with JSON: {"caption": "..."}'
)
AGAIN = "That speaks of the camera's motion ({phrases}). Describe the same scene without it, as JSON."
PROMPT_VERSION = hashlib.sha256((PROMPT + AGAIN).encode()).hexdigest()[:8]
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
MAX_ANSWER = 1 << 20
COUNTS = ("asked", "retried", "asked_again", "failed", "from_journal", "input_tokens", "output_tokens", "cost")


class VisionSettings(Settings):
    """A vision endpoint and how it is asked. The key stands in the environment variable `key_variable`, never in a profile.

    asks: how often a caption that speaks of the camera is asked for anew before it stands as it is, and the contract rejects it
    """

    url: str = Field(description="with /v1, for example http://qwen-vl:8000/v1")
    model: str
    key_variable: str = "MOWORLD_VISION_KEY"
    frames: int = Field(6, ge=1)
    max_side: int = Field(448, ge=28)
    concurrency: int = Field(8, ge=1)
    attempts: int = Field(5, ge=1)
    asks: int = Field(2, ge=0)
    first_delay_seconds: float = Field(1.0, ge=0)
    longest_delay_seconds: float = Field(60.0, ge=0)
    timeout_seconds: float = Field(60.0, gt=0)
    max_tokens: int = Field(200, ge=1)
    input_price: float = Field(0.0, ge=0, description="per million tokens")
    output_price: float = Field(0.0, ge=0, description="per million tokens")


@dataclass
class Told:
    """What annotation did: captions by video hash, and counts. Tokens are those that the server billed, retries included."""

    captions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))


class _Unanswered(Exception):
    """One request failed; `wait` is what the server asked for, `final` that no retry will help."""

    def __init__(self, why: str, wait: float | None = None, final: bool = False) -> None:
        super().__init__(why)
        self.wait, self.final = wait, final


class Annotator:
    """Asks for captions of clips, several at a time. `journal` is a JSONL of answers, read at the start and appended to."""

    def __init__(self, settings: VisionSettings, journal: Pathlike, sleep: Callable[[float], None] = time.sleep) -> None:
        self.settings, self.journal, self.sleep = settings, Path(journal), sleep
        self.told, self.lock, self.stop = Told(), threading.Lock(), threading.Event()
        self.random = random.Random(0)
        self.sessions = threading.local()

    def annotate(self, clips: list[Clip], folder: Pathlike) -> Told:
        """Captions of the clips by video_sha256, and counts; a clip that got no usable answer is absent and counted as failed.

        Raises InputError where the endpoint refuses the key or the model, or cannot be reached at all.
        """
        from tqdm import tqdm

        known = {entry["video"]: entry["caption"] for entry in self._journal() if self._is_ours(entry)}
        self.told.captions = {clip.video_sha256: known[clip.video_sha256] for clip in clips if clip.video_sha256 in known}
        left = list({clip.video_sha256: clip for clip in clips if clip.video_sha256 not in known}.values())
        self.told.counts["from_journal"] = len(self.told.captions)
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        with (
            ThreadPoolExecutor(self.settings.concurrency) as pool,
            tqdm(total=len(left), desc="captions", unit="clip", disable=None) as bar,
        ):
            jobs = [pool.submit(self._one, clip, Path(folder)) for clip in left]
            try:
                for job in jobs:
                    job.result()
                    bar.update()
            except BaseException:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        counts, price = self.told.counts, self.settings
        counts["cost"] = (counts["input_tokens"] * price.input_price + counts["output_tokens"] * price.output_price) / 1e6
        if left and counts["failed"] == len(left):
            raise InputError(price.url, "annotation", f"no usable answer for {len(left)} clips", "captions", f"see: {self.last}")
        return self.told

    def _one(self, clip: Clip, folder: Path) -> None:
        """Ask for one clip's caption; ask again while it speaks of the camera."""
        pictures = [_data_uri(frame) for frame in sampled_frames(clip, folder, self.settings)]
        content = [{"type": "text", "text": PROMPT}, *({"type": "image_url", "image_url": {"url": uri}} for uri in pictures)]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        try:
            caption = self._ask(messages)
            for _ in range(self.settings.asks):
                phrases = mentions_camera_motion(caption)
                if not phrases:
                    break
                self._count("asked_again")
                again = AGAIN.format(phrases="; ".join(phrases))
                messages = [*messages, {"role": "assistant", "content": caption}, {"role": "user", "content": again}]
                caption = self._ask(messages)
        except _Unanswered as error:
            self.last = f"{clip.clip_id}: {error}"
            self._count("failed")
            return
        except InputError:
            self.stop.set()  # here, for the thread that waits for answers in order may wait for another
            raise
        entry = {"video": clip.video_sha256, "model": self.settings.model, "prompt": PROMPT_VERSION, "caption": caption}
        with self.lock, self.journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            self.told.captions[clip.video_sha256] = caption

    def _ask(self, messages: list[dict[str, Any]]) -> str:
        """One caption, with retries: exponential delays with jitter, or what the server asks for."""
        for attempt in range(self.settings.attempts):
            if self.stop.is_set():
                raise _Unanswered("stopped")
            try:
                return self._post(messages)
            except _Unanswered as error:
                if error.final or attempt + 1 == self.settings.attempts:
                    raise
                self._count("retried")
                delay = self.settings.first_delay_seconds * 2**attempt * (0.5 + self.random.random())
                self.sleep(min(self.settings.longest_delay_seconds, delay if error.wait is None else error.wait))
        raise _Unanswered("no attempt")

    def _post(self, messages: list[dict[str, Any]]) -> str:
        import requests

        s = self.settings
        if not hasattr(self.sessions, "session"):
            self.sessions.session = requests.Session()
        body = {
            "model": s.model,
            "messages": messages,
            "max_tokens": s.max_tokens,
            "temperature": 0,
            "response_format": {"type": "json_object"},
        }
        key = os.environ.get(s.key_variable)
        self._count("asked")
        try:
            with self.sessions.session.post(
                f"{s.url.rstrip('/')}/chat/completions", json=body, timeout=s.timeout_seconds, stream=True, allow_redirects=False,
                headers={"Authorization": f"Bearer {key}"} if key else {},
            ) as response:  # fmt: skip
                raw = _read_at_most(response, time.monotonic() + s.timeout_seconds)
        except (requests.RequestException, TimeoutError) as error:
            raise _Unanswered(f"{type(error).__name__}: {error}"[:200]) from None
        if response.status_code in (401, 403):
            raise InputError(s.url, "Authorization", f"status {response.status_code}", "an accepted key", f"set {s.key_variable}")
        if response.status_code == 404:
            raise InputError(s.url, "annotation.model", s.model, "a model of the endpoint", "check annotation.url and annotation.model")
        if response.status_code != 200:
            retried = response.status_code in RETRIED
            raise _Unanswered(f"status {response.status_code}", _seconds(response.headers.get("Retry-After")), final=not retried)
        return self._caption(raw)

    def _caption(self, raw: bytes) -> str:
        """The caption in an answer. Anything but a text in the expected place is no answer, and worth another attempt."""
        try:
            answer = json.loads(raw)
            usage = answer.get("usage") or {}
            self._count("input_tokens", usage.get("prompt_tokens", 0))
            self._count("output_tokens", usage.get("completion_tokens", 0))
            text = answer["choices"][0]["message"]["content"].strip()
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _Unanswered(f"an answer without a message ({type(error).__name__})") from None
        caption = _json_caption(text)
        if not caption:
            raise _Unanswered("an empty caption")
        return " ".join(caption.split())

    def _count(self, key: str, amount: float = 1) -> None:
        with self.lock:
            self.told.counts[key] += amount

    def _journal(self) -> Iterator[dict[str, Any]]:
        """Entries of the journal; a last line that a kill cut short is passed over, and cut off so that the next one starts clean."""
        if not self.journal.is_file():
            return
        whole, _, torn = self.journal.read_bytes().rpartition(b"\n")
        if torn:
            with self.journal.open("rb+") as stream:
                stream.truncate(len(whole) + 1 if whole else 0)
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                yield json.loads(line)
            except ValueError:
                raise InputError(self.journal, f"line {number}", "no JSON", "an answer", "remove that line") from None

    def _is_ours(self, entry: dict[str, Any]) -> bool:
        return entry.get("model") == self.settings.model and entry.get("prompt") == PROMPT_VERSION

    last = ""


def sampled_frames(clip: Clip, folder: Path, settings: VisionSettings) -> list[NDArray[np.uint8]]:
    """Frames spread over a clip, (H, W, 3), their longer side at most `max_side`."""
    import cv2

    chosen = np.unique(np.linspace(0, clip.num_frames - 1, settings.frames).round().astype(int)).tolist()
    factor = min(1.0, settings.max_side / max(clip.height, clip.width))
    size = round(clip.width * factor), round(clip.height * factor)
    frames = enumerate(iterate_frames(folder / clip.video, 0, chosen[-1] + 1))
    return [np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8) for index, frame in frames if index in chosen]


def _data_uri(frame: NDArray[np.uint8]) -> str:
    import cv2

    _, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _read_at_most(response: Any, deadline: float) -> bytes:
    """The body, up to a limit of bytes and time: a timeout of requests is one of silence, and a server may drip for ever."""
    parts, size = [], 0
    for part in response.iter_content(1 << 14):
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER:
            raise TimeoutError(f"an answer above {MAX_ANSWER} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("an answer that did not end")
    return b"".join(parts)


def _json_caption(text: str) -> str:
    """The caption of {"caption": ...}, also where a model put a fence or words around it; a plain sentence stands for itself."""
    start, stop = text.find("{"), text.rfind("}")
    if start < 0:
        return text
    try:
        found = json.loads(text[start : stop + 1])
    except ValueError:
        raise _Unanswered("malformed JSON") from None
    caption = found.get("caption") if isinstance(found, dict) else None
    return caption if isinstance(caption, str) else ""


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None  # a date: the usual delay does as well
