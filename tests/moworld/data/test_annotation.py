"""Captions from a real HTTP server on loopback with typical failures: busy, broken, slow, empty, too long."""

import json
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from moworld.data import annotation
from moworld.data.annotation import PROMPT_VERSION, AnnotationResult, Annotator, VisionSettings
from moworld.data.budget import Budget
from moworld.data.captions import mentions_camera_motion
from moworld.data.clips import Clip
from moworld.errors import InputError
from moworld.video import write_video

SCENE = "A stone hall with wooden barrels, dimly lit."


def answer(text: str, usage: bool = True) -> bytes:
    body = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return json.dumps({**body, "usage": {"prompt_tokens": 100, "completion_tokens": 20}} if usage else body).encode()


class Server:
    """An endpoint whose n-th answer to a video's picture is scripted; the last one repeats. Counts requests and how many ran at once."""

    def __init__(self) -> None:
        self.script: list[object] = [json.dumps({"caption": SCENE})]
        self.seen: list[dict] = []
        self.by_picture: dict[str, int] = {}
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                    server.seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
                    picture = next(part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url")
                    number = server.by_picture.get(picture, 0)
                    server.by_picture[picture] = number + 1
                try:
                    self.say(server.script[min(number, len(server.script) - 1)])
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client gave up, as it should
                finally:
                    with server.lock:
                        server.at_once -= 1

            def say(self, what: object) -> None:
                if isinstance(what, float):
                    time.sleep(what)
                    what = json.dumps({"caption": SCENE})
                if what == "drop":
                    self.connection.close()
                    return
                if what == "drip":
                    self.send_response(200)
                    self.end_headers()
                    for _ in range(100):
                        self.wfile.write(b" ")
                        self.wfile.flush()
                        time.sleep(0.05)
                    return
                status, headers, data = what if isinstance(what, tuple) else (200, {}, answer(str(what)))
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def clips(folder, count: int = 1) -> list[Clip]:
    (folder / "videos").mkdir(exist_ok=True)
    made = []
    for number in range(count):
        frames = np.full((13, 48, 64, 3), 20 * (number % 12) + 10, np.uint8)
        frames[:, : 4 + number // 12] = 200  # no two clips send one picture
        write_video(folder / f"videos/{number}.mp4", frames, 16.0)
        made.append(Clip(str(number), "video", "a", "train", 13, 16.0, 48, 64, f"videos/{number}.mp4", f"hash-{number}"))
    return made


def annotator(server: Server, folder, delays: list[float] | None = None, **settings) -> Annotator:
    given = VisionSettings(url=server.url, model="qwen-vl", **{"first_delay_seconds": 0.01, "timeout_seconds": 0.4, **settings})
    waited = [] if delays is None else delays
    return Annotator(given, folder / "journal.jsonl", waited.append)


def test_frames_and_prompt_go_out_and_the_caption_comes_back(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MOWORLD_VISION_KEY", "secret")
    result = annotator(server, tmp_path, frames=3, input_price=2.0, output_price=10.0).annotate(clips(tmp_path), tmp_path)
    assert result.captions == {"hash-0": SCENE}
    (request,) = server.seen
    assert (request["path"], request["key"], request["model"]) == ("/v1/chat/completions", "Bearer secret", "qwen-vl")
    parts = request["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", *["image_url"] * 3] and "camera" in parts[0]["text"]
    assert all(part["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/") for part in parts[1:])
    assert result.counts["cost"] == pytest.approx((100 * 2 + 20 * 10) / 1e6) and result.counts["asked"] == 1
    assert "secret" not in (tmp_path / "journal.jsonl").read_text()


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"Retry-After": "7"}, b""), (500, {}, b"oops"), (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""), 1.0, "drop", "drip",
        (200, {}, b"{not json"), (200, {}, b""), (200, {}, b'{"choices": []}'), (200, {}, b"[1]"), "", '{"caption": ""}', '{"caption": 3}',
        '{"caption": "cut', (200, {}, b"x" * (1 << 21)),
    ],
)  # fmt: skip
def test_failed_requests_are_retried_after_a_delay(server, tmp_path, trouble):
    server.script = [trouble, trouble, json.dumps({"caption": SCENE})]
    delays: list[float] = []
    result = annotator(server, tmp_path, delays).annotate(clips(tmp_path), tmp_path)
    if trouble == '{"caption": "cut':  # an unclosed brace is no JSON, and taken as what it is: words
        assert result.captions
        return
    assert result.captions == {"hash-0": SCENE} and result.counts["retried"] == 2
    if isinstance(trouble, tuple) and trouble[1].get("Retry-After") == "7":
        assert delays == [7.0, 7.0]
    else:
        assert 0.005 <= delays[0] <= 0.015 and 0.01 <= delays[1] <= 0.03


def test_permanent_failures_are_given_up(server, tmp_path):
    two = clips(tmp_path, 2)
    annotator(server, tmp_path).annotate(two[:1], tmp_path)
    server.script = [(500, {}, b"")]
    with pytest.raises(InputError, match="no usable answer for 1 clips"):
        annotator(server, tmp_path, attempts=3).annotate(two, tmp_path)
    assert len(server.seen) == 1 + 3
    server.script, before = [(400, {}, b"too long")], len(server.seen)
    with pytest.raises(InputError, match="status 400"):
        annotator(server, tmp_path).annotate(two, tmp_path)
    assert len(server.seen) == before + 1  # an invalid request is not retried


@pytest.mark.parametrize(("status", "words"), [(401, "set MOWORLD_VISION_KEY"), (403, "an accepted key"), (404, "qwen-vl")])
def test_a_refused_key_and_an_unknown_model_end_at_once(server, tmp_path, monkeypatch, status, words):
    """Also while the first clip, for whose answer is waited first, is still being read."""
    server.script, sampled = [(status, {}, b"")], annotation.sampled_frames

    def slowly(clip, *rest):
        time.sleep(1.0 if clip.video_sha256 == "hash-0" else 0)
        return sampled(clip, *rest)

    monkeypatch.setattr(annotation, "sampled_frames", slowly)
    with pytest.raises(InputError, match=words):
        annotator(server, tmp_path, concurrency=2).annotate(clips(tmp_path, 12), tmp_path)
    assert len(server.seen) <= 2  # two at a time, and none after either's answer


def test_a_server_that_is_not_there_is_named(server, tmp_path):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(InputError, match=re.escape(server.url)):
        annotator(server, tmp_path, attempts=2).annotate(clips(tmp_path), tmp_path)


def test_a_caption_with_camera_motion_is_requested_again_and_kept_if_it_stays(server, tmp_path):
    moving = "The view slowly turns to the left. A stone hall with barrels."
    server.script = [json.dumps({"caption": moving}), json.dumps({"caption": SCENE})]
    result = annotator(server, tmp_path).annotate(clips(tmp_path), tmp_path)
    assert result.captions == {"hash-0": SCENE} and result.counts["asked_again"] == 1
    again = server.seen[1]["messages"]
    assert [message["role"] for message in again] == ["user", "assistant", "user"] and "The view slowly turns" in again[-1]["content"]
    server.script = [json.dumps({"caption": moving})]
    (clip,) = clips(tmp_path)
    stubborn = Clip(**{**clip.__dict__, "video_sha256": "other"})
    result = annotator(server, tmp_path, asks=2).annotate([stubborn], tmp_path)
    assert mentions_camera_motion(result.captions["other"]) and result.counts["asked_again"] == 2


def test_a_fence_and_words_around_the_json_do_no_harm(server, tmp_path):
    server.script = [f'Here it is:\n```json\n{{"caption": "{SCENE}"}}\n```']
    assert annotator(server, tmp_path).annotate(clips(tmp_path), tmp_path).captions == {"hash-0": SCENE}


def test_no_more_run_at_once_than_allowed_and_none_is_asked_twice(server, tmp_path):
    server.script = [0.05]
    many = clips(tmp_path, 24)
    result = annotator(server, tmp_path, concurrency=3).annotate([*many, *many[:5]], tmp_path)
    assert len(result.captions) == 24 == len(server.seen) and 2 <= server.most_at_once <= 3
    again = annotator(server, tmp_path).annotate(many, tmp_path)
    assert len(server.seen) == 24 and again.counts["from_journal"] == 24 and again.captions == result.captions


def test_a_torn_journal_line_costs_that_answer_alone_and_another_model_has_its_own(server, tmp_path):
    three = clips(tmp_path, 3)
    annotator(server, tmp_path, concurrency=1).annotate(three, tmp_path)
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    result = annotator(server, tmp_path).annotate(three, tmp_path)
    assert result.counts["asked"] == 1 and len(result.captions) == 3
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(entries) == 3 and {entry["prompt"] for entry in entries} == {PROMPT_VERSION}
    other = Annotator(VisionSettings(url=server.url, model="other"), journal)
    assert other.annotate(three, tmp_path).counts["asked"] == 3
    journal.write_text("no json\n" + journal.read_text())
    with pytest.raises(InputError, match="line 1"):
        annotator(server, tmp_path).annotate(three, tmp_path)


def test_a_budget_is_never_exceeded_and_a_resumed_run_goes_on_with_what_is_left(server, tmp_path):
    server.script = [0.05]  # each answer costs 120 tokens
    many, limit = clips(tmp_path, 24), 12 * 120
    costs = {"max_tokens": 40, "frames": 1, "concurrency": 4}

    def run(limit: int) -> AnnotationResult:
        given = VisionSettings(url=server.url, model="qwen-vl", budget_tokens=limit, **costs)
        return Annotator(given, tmp_path / "journal.jsonl", spending=tmp_path / "spent.jsonl").annotate(many, tmp_path)

    with pytest.raises(InputError, match=r"annotation: budget_tokens: found \d+ of 1440 tokens are spent.* raise annotation.budget_tokens and resume"):
        run(limit)
    answered = len(server.seen)
    assert 6 <= answered <= 12 and server.most_at_once <= 4  # the last request that could cost too much is not sent
    with pytest.raises(InputError, match="budget_tokens"):
        run(limit)
    assert len(server.seen) == answered
    result = run(24 * 120 + 700)
    assert len(result.captions) == 24 == len(server.seen) and result.counts["asked"] == 24 - answered
    assert Budget(1, tmp_path / "spent.jsonl").spent == 24 * 120


def test_refused_requests_cost_nothing_and_lost_ones_all_that_they_may(server, tmp_path):
    server.script = [(429, {"Retry-After": "0"}, b""), (503, {}, b""), "drop", json.dumps({"caption": SCENE})]
    spending = tmp_path / "spent.jsonl"
    given = VisionSettings(url=server.url, model="qwen-vl", budget_tokens=10_000, first_delay_seconds=0.01)
    assert Annotator(given, tmp_path / "journal.jsonl", spending=spending).annotate(clips(tmp_path), tmp_path).counts["retried"] == 3
    entries = [json.loads(line) for line in spending.read_text().splitlines()]
    assert [entry["tokens"] for entry in entries[1::2]] == [0, 0, entries[4]["tokens"], 120] and entries[4]["tokens"] > 120


def test_a_date_of_the_server_is_a_delay(server, tmp_path):
    server.script = [(503, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)}, b""), json.dumps({"caption": SCENE})]
    delays: list[float] = []
    annotator(server, tmp_path, delays).annotate(clips(tmp_path), tmp_path)
    assert 0 < delays[0] <= 50 and len(delays) == 1
