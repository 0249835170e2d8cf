"""/v1/realtime/video over real sockets on loopback: a session, interaction events, a prompt switch in the middle of a walk, and refusals."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
from aiohttp.test_utils import TestServer

from moworld.inference.pictures import encode_png
from moworld.inference.player.server import Player
from tests.moworld.inference.player.test_server import guest, visit
from tests.moworld.inference.worlds import picture

FORWARD = {"mode": "velocity", "data": {"translation": [0, 0, 0.2], "rotation": [0, 0.1, 0, 0.99]}}


class Client:
    """A client of the protocol: events in order, and the bytes of the video."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.events, self.pieces = socket, list[dict[str, Any]](), list[bytes]()

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send_str(json.dumps({"type": kind, **fields}))

    async def interact(self, event_id: str, transition_chunks: int | None = None, **event: Any) -> None:
        body = {"event_id": event_id, "event": event} | ({} if transition_chunks is None else {"transition_chunks": transition_chunks})
        await self.say("session.interaction", interaction=body)

    async def until(self, kind: str) -> dict[str, Any]:
        """Receives up to the next message of a type, which it returns."""
        async with asyncio.timeout(60):
            async for message in self.socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    self.pieces.append(message.data)
                    assert self.events[-1]["type"] == "video.chunk_metadata" and self.events[-1]["byte_length"] == len(message.data)
                    continue
                self.events.append(json.loads(message.data))
                if self.events[-1]["type"] == kind:
                    return self.events[-1]
        raise AssertionError(f"the connection ended before {kind}: {self.events[-3:]}")

    def chunks(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == "video.chunk_metadata"]

    def frames(self) -> np.ndarray:
        with av.open(io.BytesIO(b"".join(self.pieces))) as video:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def connect(served: TestServer, http: aiohttp.ClientSession, query: str = "") -> Any:
    return http.ws_connect(str(served.make_url("/v1/realtime/video")) + query, max_msg_size=0)


async def freed(player: Player) -> None:
    """Waits until the place of a session that has ended is free: soon after its last message."""
    async with asyncio.timeout(20):
        while player.engine.sessions:
            await asyncio.sleep(0.01)


async def walk(served: TestServer, http: aiohttp.ClientSession, switch: bool) -> Client:
    """A walk of 61 frames; with `switch`, another prompt and a moving camera from its third chunk or so on."""
    async with connect(served, http) as socket:
        client = Client(socket)
        await client.say("session.start", prompt="a hall", num_frames=61, fps=20, seed=4, guidance_scale=1.0)
        for _ in range(2):
            await client.until("video.chunk_metadata")
        if switch:
            await client.interact("storm", 2, prompt="a hall in a storm, much longer", multi_modal_data={"camera": FORWARD})
        await client.until("session.done")
        return client


def test_a_prompt_switch_and_a_camera_in_the_middle_of_a_walk(tmp_path: Path) -> None:
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        plain, switched = await walk(served, http, switch=False), await walk(served, http, switch=True)
        start = plain.events[0]
        assert start["type"] == "video.start" and start["format"] == "m4s" and start["request_id"].startswith("video_stream-")
        wanted = {"prompt": "a hall", "width": 32, "height": 16, "fps": 20.0, "seed": 4, "num_frames": 61}
        assert start["config"] == wanted
        assert [chunk["num_frames"] for chunk in plain.chunks()] == [1, 12, 12, 12, 12, 12]
        assert [chunk["transport_chunk_index"] for chunk in plain.chunks()] == list(range(6))
        done = {"type": "session.done", "request_id": start["request_id"], "chunks": 6, "stopped": False}
        assert plain.events[-1] == done and len(plain.frames()) == len(switched.frames()) == 61
        kinds = [event["type"] for event in switched.events]
        assert kinds.count("session.interaction.queued") == 1 and "error" not in kinds
        begun = [index for index, chunk in enumerate(switched.chunks()) if chunk["started_event_ids"] == ["storm"]]
        assert len(begun) == 1 and 2 <= begun[0] <= 4
        assert all(chunk["active_event_ids"] == ["storm"] for chunk in switched.chunks()[begun[0] :]), "a velocity is held"
        first = sum(chunk["num_frames"] for chunk in switched.chunks()[: begun[0]])
        before, after = (np.abs(plain.frames()[part].astype(int) - switched.frames()[part]).mean() for part in (slice(0, first), slice(first, 61)))
        assert before == 0 and after > 0.5
        await freed(player)

    visit(tmp_path, scenario)


def test_events_are_acknowledged_or_refused_and_the_walk_goes_on(tmp_path: Path) -> None:
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with connect(served, http) as socket:
            client = Client(socket)
            own = "data:image/png;base64," + base64.b64encode(encode_png(picture(16, 32, seed=9))).decode()
            await client.say("session.start", prompt="", image_reference={"image_url": own})
            request = (await client.until("video.start"))["request_id"]
            await client.say("session.ping")
            await client.until("session.pong")
            await client.interact("one", prompt="a garden")
            assert (await client.until("session.interaction.queued")) == {"type": "session.interaction.queued", "request_id": request, "event_id": "one"}
            await client.interact("one", prompt="a garden")
            assert (await client.until("error"))["code"] == "event_id_conflict"
            tilted = {"mode": "velocity", "data": {"rotation": [0.1, 0, 0, 0.99]}}
            for _ in range(2):  # an id that was refused may be used again
                await client.interact("tilt", multi_modal_data={"camera": tilted})
                refused = await client.until("error")
                assert (refused["code"], refused["event_id"], refused["request_id"]) == ("interaction_failed", "tilt", request)
            for bad in ({"event": {}}, {"event": {"prompt": " "}}, {"event": {"prompt": "x"}, "transition_chunks": -1}, {"event": {"prompt": "x", "negative_prompt": "y"}}):
                await client.say("session.interaction", interaction=bad)
                assert "expected" in (await client.until("error"))["message"]
            await client.say("session.interaction", interaction={"event": {"multi_modal_data": {"camera": {"mode": "velocity", "data": {"actions": ["w"]}}}}})
            assert "actions" in (await client.until("error"))["message"]
            while (await client.until("video.chunk_metadata"))["num_frames"] != 12:
                pass
            await client.say("session.stop")
            assert (await client.until("session.done"))["stopped"] is True
            done = [one for chunk in client.chunks() for one in chunk["completed_event_ids"]]
            assert done.count("one") <= 1 and len(client.frames()) % 12 == 1
            await freed(player)

    visit(tmp_path, scenario)


def test_a_start_that_cannot_be_served_takes_no_place(tmp_path: Path) -> None:
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        cases = {
            "Input tag": {"type": "session.ping"}, "session.start": {"type": "session.start"}, "32x16": {"width": 64, "height": 64},
            "tiny": {"model": "other"}, "this server fetches nothing": {"image_reference": {"image_url": "http://127.0.0.1/x.png"}},
            "m4s": {"format": "webm"}, "at most 40": {"fps": 60}, "camera_action_script": {"extra_params": {"camera_action_script": []}},
            "send a JPEG": {"image_reference": {"image_url": "data:image/png;base64,bm90aGluZw=="}},
        }  # fmt: skip
        for number, (expected, fields) in enumerate(cases.items()):
            async with connect(served, http, "?token=sesame") as socket:
                client = Client(socket)
                await client.socket.send_str(json.dumps(fields if number < 2 else {"type": "session.start", "prompt": "", **fields}))
                message = (await client.until("error"))["message"]
                assert expected in message or number < 2, message
                assert player.engine.sessions == 0
        for query in ("", "?token=wrong"):
            async with http.get(str(served.make_url("/v1/realtime/video")) + query) as answer:
                assert answer.status == 401

    visit(tmp_path, scenario, token="sesame", model="tiny")


def test_both_protocols_share_places_and_the_queue(tmp_path: Path) -> None:
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as one, connect(served, http) as socket:
            await one.until(lambda: bool(one.received))
            client = Client(socket)
            await client.say("session.start", prompt="", num_frames=13)
            assert (await client.until("queue"))["place"] == 1
            await one.socket.close()
            await client.until("session.done")
            assert len(client.frames()) == 13
        async with guest(served, http) as two:
            await two.until(lambda: bool(two.received) and two.received[0]["type"] == "hello")

    visit(tmp_path, scenario, max_sessions=1)
