"""One connection of `/v1/realtime/video`: a world as fragmented MP4, steered by interaction events, with the seats and streams of the page.

The messages are vLLM-Omni's (see `realtime_messages` and docs/concepts/realtime-video.md).
"""

import asyncio
import base64
import binascii
import uuid
from typing import Any

import numpy as np
from aiohttp import WSCloseCode, WSMsgType
from numpy.typing import NDArray

from moworld.camera.cameras import resize_to_cover
from moworld.errors import InputError
from moworld.inference.pictures import read_untrusted
from moworld.inference.player.camera_path import CameraEvent, CameraPath, Pose
from moworld.inference.player.connection import Connection
from moworld.inference.player.realtime_messages import (
    FIX,
    Interaction,
    InteractionBody,
    Ping,
    SessionStart,
    Stop,
    frame_size,
    parse_control,
    parse_start,
)
from moworld.inference.player.seats import Seat, cancelled
from moworld.video import Frames
from moworld.video.fragments import FragmentEncoder

START_SECONDS = 10.0  # for the first message
IDLE_SECONDS = 120.0  # without a message, a session without `num_frames` ends
STALL_SECONDS = 60.0  # without a chunk or a ping, a session ends


class RealtimeVideo(Connection):
    """A connection and its session. One connection is one session, as in vLLM-Omni."""

    async def visit(self) -> None:
        """Serves the connection until its session ends."""
        try:
            start = await self._receive_start()
            if start is None:
                return
            picture = await self._picture(start)
            seat = await self.find_seat()
        except InputError as error:
            await self._say_error(error)
            await self.socket.close(code=WSCloseCode.POLICY_VIOLATION)
            return
        if seat is None:
            return
        try:
            await _Session(self, seat, start).run(picture)
        finally:
            self.player.seats.release(seat)

    async def _receive_start(self) -> SessionStart | None:
        """Returns the checked first message, or None if the connection ends before. Raises InputError."""
        try:
            message = await self.socket.receive(timeout=START_SECONDS)
        except TimeoutError:
            raise InputError("session.start", "", "nothing", f"a message within {START_SECONDS:g} seconds", FIX) from None
        if message.type == WSMsgType.BINARY:
            raise InputError("message", "", "a binary message", "session.start as JSON text", FIX)
        if message.type != WSMsgType.TEXT:
            return None
        start, config = parse_start(message.data), self.player.engine.model.config
        width, height = frame_size(start)
        if (width or config.width, height or config.height) != (config.width, config.height):
            raise InputError("session.start", "width, height", f"{width}x{height}", f"{config.width}x{config.height}", "omit both")
        if start.model and self.player.model and start.model != self.player.model:
            raise InputError("session.start", "model", start.model, self.player.model, "omit it")
        if start.fps and start.fps > self.player.fps:
            raise InputError("session.start", "fps", start.fps, f"at most {self.player.fps:g}", "omit it")
        if start.image_reference is None and not self.player.pictures:
            raise InputError("session.start", "image_reference", "none, and the model has no pictures", "a picture", FIX)
        return start

    async def _picture(self, start: SessionStart) -> Frames:
        if start.image_reference is None:
            return self.player.pictures[0]
        kind, _, data = start.image_reference.image_url.partition(",")
        try:
            picture = base64.b64decode(data, validate=True) if kind.endswith(";base64") else b""
        except binascii.Error:
            picture = b""
        if not picture:
            raise InputError("session.start", "image_reference.image_url", kind[:60], "a data URL in base64", FIX)
        config = self.player.engine.model.config
        found: Frames = await self._on_worker(lambda: resize_to_cover(read_untrusted(picture), (config.height, config.width)))
        return found

    async def say(self, kind: str, /, **fields: Any) -> None:
        """Sends a message. Raises ConnectionError if the peer is gone."""
        await self.socket.send_json({"type": kind, **fields})

    async def receive_control(self) -> Interaction | Ping | Stop | None:
        """Returns the next valid message; None if the connection has ended or is to end."""
        while True:
            message = await self.socket.receive()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return None
            if not self.messages.take():
                await self._end(WSCloseCode.POLICY_VIOLATION, "too many messages")
                return None
            try:
                if message.type == WSMsgType.BINARY:
                    raise InputError("message", "", "a binary message", "JSON text", FIX)
                return parse_control(message.data)
            except InputError as error:
                if not await self.count_malformed(error):
                    return None

    async def on_worker(self, work: Any, *arguments: Any) -> Any:
        """Runs work that would block, such as encoding a prompt, on the player's worker."""
        return await self._on_worker(work, *arguments)


class _Session:
    """A world that one connection watches. prompts: ids of prompt changes, with the chunks until they are complete."""

    def __init__(self, connection: RealtimeVideo, seat: Seat, start: SessionStart) -> None:
        player = connection.player
        self.connection, self.stream, self.start = connection, seat.stream, start
        self.id, self.seed = f"video_stream-{uuid.uuid4().hex}", start.seed or 0
        self.stream.fps = float(start.fps or player.fps)
        self.num_frames = start.num_frames or (round(int(start.seconds) * self.stream.fps) if start.seconds else None)
        self.encoder, self.camera = FragmentEncoder(self.stream.fps), CameraPath()
        self.frames, self.chunks, self.ids = 0, 0, set[str]()
        self.prompts, self.begun, self.replaced = dict[str, int](), list[str](), list[str]()
        self.marks: dict[str, list[str]] = {"started_event_ids": [], "active_event_ids": [], "completed_event_ids": []}
        self.opened, self.complete = asyncio.Event(), asyncio.Event()
        self.progress = self.message_at = asyncio.get_running_loop().time()

    async def run(self, picture: Frames) -> None:
        """Plays until all frames are sent, the client stops or leaves, or the world fails."""
        config, player = self.connection.player.engine.model.config, self.connection.player
        used = {"prompt": self.start.prompt, "width": config.width, "height": config.height, "fps": self.stream.fps, "seed": self.seed}
        optional = {"model": player.model or None, "num_frames": self.num_frames}
        found = used | {name: value for name, value in optional.items() if value is not None}
        await self.connection.say("video.start", request_id=self.id, format="m4s", config=found)
        self.stream.path, self.stream.take = self._path, self._take
        playing = asyncio.ensure_future(self._play(picture))
        listening, complete = asyncio.ensure_future(self._listen()), asyncio.ensure_future(self.complete.wait())
        watching = asyncio.ensure_future(self._watch())
        tasks: list[asyncio.Future[Any]] = [playing, listening, complete, watching]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            stopped = listening.done() and not listening.exception() and listening.result()
            failed = next((task.exception() for task in (playing, watching) if task.done() and task.exception()), None)
            if failed is not None and not isinstance(failed, InputError):
                raise failed
            if failed is not None:
                await self.connection._say_error(failed)
            if complete.done() or stopped:
                await self.connection.say("session.done", request_id=self.id, chunks=self.chunks, stopped=not complete.done())
            await self.connection.socket.close()
        except ConnectionError:
            pass  # the client is gone
        finally:
            for task in tasks:
                await cancelled(task)
            self.stream.path = self.stream.take = None

    async def _play(self, picture: Frames) -> None:
        if self.start.prompt:  # a first prompt loads the text encoder, for which other sessions do not wait
            await self.connection.on_worker(self.connection.player.engine.text_encoder.encode, [self.start.prompt])
        await self.stream.play(picture, self.start.prompt, self.seed)

    async def _listen(self) -> bool:
        """Handles messages. Returns whether the client stopped the session; False if it left."""
        while (message := await self.connection.receive_control()) is not None:
            self.message_at = asyncio.get_running_loop().time()
            if isinstance(message, Stop):
                return True
            if isinstance(message, Ping):
                self.progress = self.message_at
                await self.connection.say("session.pong")
            else:
                await self._interact(message.interaction)
        return False

    async def _watch(self) -> None:
        """Raises InputError if nothing happens, or if nobody answers in a session without an end."""
        while True:
            await asyncio.sleep(1)
            now = asyncio.get_running_loop().time()
            if now - self.progress > STALL_SECONDS:
                raise InputError("session", "", f"no chunk for {STALL_SECONDS:g} seconds", "generation progress", "start again later")
            if self.num_frames is None and now - self.message_at > IDLE_SECONDS:
                raise InputError("session", "", f"no message for {IDLE_SECONDS:g} seconds", "session.ping now and then, or num_frames", FIX)

    async def _interact(self, body: InteractionBody) -> None:
        event_id = body.event_id or uuid.uuid4().hex
        if event_id in self.ids:
            await self._refuse("event_id_conflict", "event_id_conflict", event_id)
            return
        self.ids.add(event_id)
        chunks = 1 if body.transition_chunks is None else body.transition_chunks
        media = body.event.multi_modal_data
        camera = None if media is None else media.camera
        pose = None if camera is None else Pose.from_unity(camera.data.translation, camera.data.rotation)
        if pose is not None and not (pose.level or self.connection.player.engine.model.config.pitch):
            self.ids.discard(event_id)
            await self._refuse(
                "interaction_failed", "this model has not learned to look up and down: turn about the vertical axis alone", event_id
            )
            return
        await self.connection.say("session.interaction.queued", request_id=self.id, event_id=event_id)
        if body.event.prompt is not None:
            await self.opened.wait()  # a prompt that came before the first frame changes the world once there is one
            try:
                await self.connection.on_worker(self.stream.slot.session.change_prompt, body.event.prompt.strip(), chunks)
            except InputError as error:
                self.ids.discard(event_id)
                await self._refuse("interaction_failed", str(error), event_id)
                return
            self.begun.append(event_id)
            self.replaced += self.prompts
            self.prompts = {event_id: max(1, chunks)}
        if pose is not None and camera is not None:
            self.camera.add(CameraEvent(event_id, camera.mode, pose, chunks))

    async def _refuse(self, code: str, message: str, event_id: str) -> None:
        await self.connection.say("error", message=message, code=code, request_id=self.id, event_id=event_id)

    def _path(self, frames: int) -> NDArray[np.float64]:
        """Returns the poses of the next chunk, and notes which events it begins, follows and completes."""
        poses, began, ended = self.camera.next_chunk(frames)
        began, self.begun = list(dict.fromkeys([*self.begun, *began])), []
        left = {event_id: chunks - 1 for event_id, chunks in self.prompts.items()}
        ended += [*self.replaced, *(event_id for event_id, chunks in left.items() if chunks == 0)]
        self.replaced = []
        self.prompts = {event_id: chunks for event_id, chunks in left.items() if chunks}
        active = [*self.prompts, *([self.camera.active.event_id] if self.camera.active else [])]
        lasting = list(dict.fromkeys(active))
        self.marks = {
            "started_event_ids": began, "active_event_ids": lasting,
            "completed_event_ids": [one for one in dict.fromkeys(ended) if one not in lasting],
        }  # fmt: skip
        return poses

    async def _take(self, frames: Frames) -> None:
        """Sends a chunk: its metadata, then its bytes. Frames beyond `num_frames` are omitted."""
        self.opened.set()
        wanted = len(frames) if self.num_frames is None else min(len(frames), self.num_frames - self.frames)
        if wanted <= 0:
            return
        data = await asyncio.to_thread(self.encoder.encode, frames[:wanted])
        facts = {"kind": "media", "transport_chunk_index": self.chunks, "generation_chunk_index": self.chunks, "num_frames": wanted}
        try:
            await self.connection.say("video.chunk_metadata", request_id=self.id, byte_length=len(data), **facts, **self.marks)
            await self.connection.socket.send_bytes(data)
        except ConnectionError:
            return  # `_listen` receives the end of the connection
        self.chunks, self.frames = self.chunks + 1, self.frames + wanted
        self.progress = asyncio.get_running_loop().time()
        if self.num_frames is not None and self.frames >= self.num_frames:
            self.complete.set()
