"""Captions by a vision model behind any OpenAI-compatible endpoint, for example vLLM or MindIE serving Qwen-VL (paper 2, stage 3).

Frames of a clip are sent and a description is returned. A journal keeps the answers, so a resumed run repeats no request. A budget limits
what all requests of a run may cost.
"""

import base64
import hashlib
import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import cv2
import httpx2
import numpy as np
import openai
import tenacity
from numpy.typing import NDArray

from moworld.data.budget import Budget, BudgetSpent, Reservation
from moworld.data.captions import mentions_camera_motion
from moworld.data.clips import Clip
from moworld.data.settings import VisionSettings
from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.video import iterate_frames

PROMPT = (
    "These pictures are frames of one video, in order. Describe the scene in one or two sentences: place, things, materials, light, weather,"
    ' style. Do not say how the camera or the viewer moves, and do not mention frames or a video. Answer with JSON: {"caption": "..."}'
)
AGAIN = "That speaks of the camera's motion ({phrases}). Describe the same scene without it, as JSON."
PROMPT_VERSION = hashlib.sha256((PROMPT + AGAIN).encode()).hexdigest()[:8]
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
MAX_ANSWER = 1 << 20  # bytes
PATCH = 14  # pixels: vision models make at most one token of a square with this side
FRAME_TOKENS = 64  # of a message or a picture, beside its text or patches
COUNTS = ("asked", "retried", "asked_again", "failed", "from_journal", "input_tokens", "output_tokens", "cost")


@dataclass
class AnnotationResult:
    """Captions by video hash, and request counts. Token counts include retried requests, as the server bills them."""

    captions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)


class Annotator:
    """Requests captions of clips, several at a time.

    journal:  JSONL of answers, read at the start and appended to. Those of partitions, NAME-p03.jsonl beside NAME.jsonl, are read, too
    spending: file of what earlier attempts have spent of the budget (see `Budget`); None for none
    """

    def __init__(
        self, settings: VisionSettings, journal: Pathlike, sleep: Callable[[float], None] = time.sleep, spending: Pathlike | None = None
    ) -> None:
        self.settings, self.journal, self.sleep, self.spending = settings, Path(journal), sleep, spending
        self.last_error = ""

    def annotate(self, clips: list[Clip], folder: Pathlike) -> AnnotationResult:
        """Returns captions by video_sha256, and counts. A clip without a usable answer is absent and counted as failed.

        Raises InputError when the endpoint rejects the key or the model, when no request succeeds, and when the budget is spent. Answers
        that have come are then in the journal.
        """
        from tqdm import tqdm

        current = (self.settings.model, PROMPT_VERSION)
        entries = [entry for entry in (*self._others(), *self._read_journal()) if (entry.get("model"), entry.get("prompt")) == current]
        known = {entry["video"]: entry["caption"] for entry in entries}
        captions = {clip.video_sha256: known[clip.video_sha256] for clip in clips if clip.video_sha256 in known}
        missing = list({clip.video_sha256: clip for clip in clips if clip.video_sha256 not in known}.values())
        endpoint = VisionEndpoint(self.settings, self.sleep, Budget(self.settings.budget_tokens, self.spending))
        endpoint.count("from_journal", len(captions))
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        with (
            ThreadPoolExecutor(self.settings.concurrency) as pool,
            tqdm(total=len(missing), desc="captions", unit="clip", disable=None) as bar,
        ):
            jobs = [pool.submit(self._annotate_one, clip, Path(folder), endpoint, captions) for clip in missing]
            try:
                for job in jobs:
                    job.result()
                    bar.update()
            except BudgetSpent as spent:
                endpoint.stop.set()
                pool.shutdown(cancel_futures=True)
                fix = f"raise annotation.budget_tokens and resume the run: {len(captions)} of {len(captions) + len(missing)} captions are kept"
                raise InputError("annotation", "budget_tokens", spent, "enough for all clips", fix) from None
            except BaseException:
                endpoint.stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        counts, settings = endpoint.counts, self.settings
        counts["cost"] = (counts["input_tokens"] * settings.input_price + counts["output_tokens"] * settings.output_price) / 1e6
        if missing and counts["failed"] == len(missing):
            found = f"no usable answer for {len(missing)} clips"
            raise InputError(settings.url, "annotation", found, "captions", f"check the endpoint: {self.last_error}")
        return AnnotationResult(captions, counts)

    def _annotate_one(self, clip: Clip, folder: Path, endpoint: "VisionEndpoint", captions: dict[str, str]) -> None:
        """Requests one clip's caption, again while it mentions the camera, and writes it to the journal."""
        frames = sampled_frames(clip, folder, self.settings)
        images = [{"type": "image_url", "image_url": {"url": _data_uri(frame)}} for frame in frames]
        tokens = sum(math.ceil(len(frame) / PATCH) * math.ceil(len(frame[0]) / PATCH) + FRAME_TOKENS for frame in frames)
        messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": PROMPT}, *images]}]
        try:
            caption = endpoint.caption(messages, tokens)
            for _ in range(self.settings.asks):
                phrases = mentions_camera_motion(caption)
                if not phrases:
                    break
                endpoint.count("asked_again")
                again = AGAIN.format(phrases="; ".join(phrases))
                messages = [*messages, {"role": "assistant", "content": caption}, {"role": "user", "content": again}]
                caption = endpoint.caption(messages, tokens)
        except Unanswered as error:
            self.last_error = f"{clip.clip_id}: {error}"
            endpoint.count("failed")
            return
        except (InputError, BudgetSpent):
            endpoint.stop.set()  # at once: the main thread waits for answers in order and may be waiting for another one
            raise
        entry = {"video": clip.video_sha256, "model": self.settings.model, "prompt": PROMPT_VERSION, "caption": caption}
        with endpoint.lock, self.journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            captions[clip.video_sha256] = caption

    def _others(self) -> Iterator[dict[str, Any]]:
        """Yields the entries of the journals beside this one, to which others may be writing: a last line without an end is ignored."""
        stem = re.sub(r"-p\d\d$", "", self.journal.stem)
        for path in sorted(self.journal.parent.glob(f"{stem}*.jsonl")):
            if path != self.journal and re.fullmatch(re.escape(stem) + r"(-p\d\d)?", path.stem):
                for line in path.read_bytes().rpartition(b"\n")[0].splitlines():
                    with suppress(ValueError):  # its own step names a damaged line
                        yield json.loads(line)

    def _read_journal(self) -> Iterator[dict[str, Any]]:
        """Yields the journal's entries. A last line that a kill cut short is ignored, and removed from the file."""
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


def sampled_frames(clip: Clip, folder: Path, settings: VisionSettings) -> list[NDArray[np.uint8]]:
    """Returns frames spread over a clip, (H, W, 3), their longer side at most `max_side` pixels."""
    chosen = np.unique(np.linspace(0, clip.num_frames - 1, settings.frames).round().astype(int)).tolist()
    factor = min(1.0, settings.max_side / max(clip.height, clip.width))
    size = round(clip.width * factor), round(clip.height * factor)
    frames = enumerate(iterate_frames(folder / clip.video, 0, chosen[-1] + 1))
    return [np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8) for index, frame in frames if index in chosen]


def _data_uri(frame: NDArray[np.uint8]) -> str:
    _, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


class Unanswered(Exception):
    """One request failed. `wait`: seconds that the server requested before the next; `final`: a retry cannot succeed."""

    def __init__(self, reason: str, wait: float | None = None, final: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.final = wait, final


class VisionEndpoint:
    """Requests captions from one endpoint. Several threads may share it and its budget; `counts` sums up over all of them."""

    def __init__(self, settings: VisionSettings, sleep: Callable[[float], None], budget: Budget) -> None:
        self.settings, self.sleep, self.random, self.budget = settings, sleep, random.Random(0), budget
        self.stop, self.lock = threading.Event(), threading.Lock()
        self.counts: dict[str, float] = dict.fromkeys(COUNTS, 0)
        http = _BoundedClient(timeout=settings.timeout_seconds)
        key = os.environ.get(settings.key_variable)
        self.headers: dict[str, Any] = {} if key else {"Authorization": openai.Omit()}
        self.client = openai.OpenAI(api_key=key or "none", base_url=settings.url, http_client=http, max_retries=0)

    def count(self, key: str, amount: float = 1) -> None:
        """Adds to one of `COUNTS`."""
        with self.lock:
            self.counts[key] += amount

    def caption(self, messages: list[dict[str, Any]], image_tokens: int) -> str:
        """Returns one caption after retries with exponential delays and jitter, or after the delay that the server requests.

        image_tokens: the most that the pictures of the messages cost
        Raises Unanswered when no attempt succeeds, InputError when the endpoint rejects the key or the model, BudgetSpent before a
        request that could exceed the budget.
        """
        most = image_tokens + self.settings.max_tokens + sum(_text_tokens(message) for message in messages)
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.settings.attempts),
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, Unanswered) and not error.final),
            wait=self._delay,
            before_sleep=lambda _: self.count("retried"),
            sleep=self.sleep,
            reraise=True,
        )
        return retrying(self._paid_request, messages, most)

    def _delay(self, state: tenacity.RetryCallState) -> float:
        wait = getattr(state.outcome and state.outcome.exception(), "wait", None)
        delay = self.settings.first_delay_seconds * 2 ** (state.attempt_number - 1) * (0.5 + self.random.random())
        return float(min(self.settings.longest_delay_seconds, delay if wait is None else wait))

    def _paid_request(self, messages: list[Any], most: int) -> str:
        with self.budget.reserved(most) as reservation:
            return self._request(messages, reservation)

    def _request(self, messages: list[Any], reservation: Reservation) -> str:
        if self.stop.is_set():
            reservation.cost = 0
            raise Unanswered("stopped", final=True)
        self.count("asked")
        try:
            answer = self.client.chat.completions.with_raw_response.create(
                model=self.settings.model,
                messages=messages,
                max_tokens=self.settings.max_tokens,
                temperature=0,
                response_format={"type": "json_object"},
                extra_headers=self.headers,
            )
        except openai.APIStatusError as error:
            reservation.cost = 0  # a refused request is not billed
            raise self._refusal(error) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise Unanswered(f"{type(cause).__name__}: {cause}"[:200]) from None
        return self._parse(answer.http_response.content, reservation)

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        """Returns the error for a status that is no success: an InputError if every request has it, else Unanswered."""
        url, model = self.settings.url, self.settings.model
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            found = f"status {error.status_code}"
            return InputError(url, "Authorization", found, "an accepted key", f"set {self.settings.key_variable}")
        if isinstance(error, openai.NotFoundError):
            return InputError(url, "annotation.model", model, "a model of the endpoint", "check annotation.url and annotation.model")
        wait = _seconds(error.response.headers.get("Retry-After"))
        return Unanswered(f"status {error.status_code}", wait, final=error.status_code not in RETRIED)

    def _parse(self, raw: bytes, reservation: Reservation) -> str:
        """Returns the caption in a response body; anything but a text in the expected place is worth another attempt."""
        try:
            answer = json.loads(raw)
            usage = answer.get("usage") or {}
            if usage:
                reservation.cost = int(usage.get("prompt_tokens", 0)) + int(usage.get("completion_tokens", 0))
            self.count("input_tokens", usage.get("prompt_tokens", 0))
            self.count("output_tokens", usage.get("completion_tokens", 0))
            caption = _json_caption(answer["choices"][0]["message"]["content"].strip())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise Unanswered(f"an answer without a message ({type(error).__name__})") from None
        if not caption:
            raise Unanswered("an empty caption")
        return " ".join(caption.split())


class _BoundedClient(httpx2.Client):
    """Limits bytes and total seconds of a response: the timeout of httpx2 is one per read, and a server may drip forever."""

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        deadline, parts, size = time.monotonic() + (self.timeout.read or 0), list[bytes](), 0
        with closing(super().send(request, **{**options, "stream": True})) as response:
            for part in response.iter_raw():
                parts.append(part)
                size += len(part)
                if size > MAX_ANSWER:
                    raise httpx2.ReadError(f"a response above {MAX_ANSWER} bytes")
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("a response that did not end")
        return httpx2.Response(response.status_code, headers=response.headers, content=b"".join(parts), request=request)


def _json_caption(text: str) -> str:
    """Returns the caption of {"caption": ...}, also inside a code fence or prose; a plain sentence is returned unchanged."""
    start, stop = text.find("{"), text.rfind("}")
    if start < 0:
        return text
    found = json.loads(text[start : stop + 1])
    caption = found.get("caption") if isinstance(found, dict) else None
    return caption if isinstance(caption, str) else ""


def _text_tokens(message: dict[str, Any]) -> int:
    """Returns the most tokens that the text of a message costs: one a byte."""
    content = message["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
    return sum(len(text.encode()) for text in texts) + FRAME_TOKENS


def _seconds(header: str | None) -> float | None:
    """Returns the seconds of a Retry-After header, which are a number or until a date; None for no header and for a date that is over."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        left = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
    return left if left > 0 else None
