"""Recordings say where they come from: the record of one gives its frames again, signed where there is a key."""

import hashlib
from pathlib import Path

import aiohttp
import numpy as np
from aiohttp.test_utils import TestServer

from moworld.camera.controls import parse_controls
from moworld.inference import WorldSession
from moworld.inference.pictures import read_picture
from moworld.inference.player.recorder import Origins
from moworld.inference.player.server import Player
from moworld.inference.provenance import ModelIdentity, Signature, decode_bytes, digest_of, read_sidecar
from moworld.video import read_frames
from tests.moworld.inference.player.test_server import Guest, guest, visit
from tests.moworld.inference.worlds import Letters


async def recording(one: Guest) -> dict[str, object]:
    await one.say(type="record", on=False)
    await one.until(lambda: any(message["type"] == "recording" for message in one.received))
    return next(message for message in one.received if message["type"] == "recording")


def test_the_record_of_a_recording_gives_its_frames_again(tmp_path: Path) -> None:
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as one:
            await one.say(type="start", seed=5, picture=1, prompt="a hall")
            await one.say(type="keys", keys="w", number=1)
            await one.until(lambda: len(one.frames) > 16)
            await one.say(type="record", on=True)
            await one.say(type="keys", keys="wl", number=2)
            await one.until(lambda: len(one.frames) > 40)
            said = await recording(one)
            for name in ("url", "record"):
                async with http.get(served.make_url(f"/{said[name]}")) as answer:
                    assert answer.status == 200
                    (tmp_path / ("got.mp4" if name == "url" else "got.mp4.json")).write_bytes(await answer.read())
        sidecar, _ = read_sidecar(tmp_path / "got.mp4.json")
        record, controls = sidecar.record, sidecar.record.controls
        assert said["signed"] is True and sidecar.signature is not None and record.kind == "recording" and record.model.name == "tiny"
        assert record.sha256 == hashlib.sha256((tmp_path / "got.mp4").read_bytes()).hexdigest()
        assert (controls.prompt, controls.seed, controls.backend) == ("a hall", 5, "torch")
        session = WorldSession(player.engine.model, Letters(), player.engine.codec)
        keys = parse_controls(controls.actions)
        assert {"".join(sorted(held)) for held in keys} >= {"w", "lw"}
        chunks = [session.open(read_picture(decode_bytes(controls.picture)), controls.prompt, controls.seed)]
        chunks += [session.step(keys[at : at + 12]) for at in range(0, len(keys), 12)]
        assert tuple(map(digest_of, chunks)) == record.frames.chunks and record.frames.count == len(keys) + 1
        shown, again = read_frames(tmp_path / "got.mp4"), np.concatenate(chunks)[record.first_frame :]
        assert len(shown) == said["frames"] <= len(again) and record.first_frame > 12
        small = shown.reshape(len(shown), 16, 30, 32, 30, 3).mean((2, 4))  # the recording is enlarged by 30
        errors = [[np.abs(frame - other).mean() for other in again] for frame in small]
        assert [int(np.argmin(row)) for row in errors][:12] == list(range(12)), "frame by frame the same walk"

    origins = Origins(lambda: ModelIdentity(sha256="0" * 64, name="tiny"), lambda data: Signature(key="ab", value="c2lnbmVk"))
    visit(tmp_path, scenario, origins=origins)


def test_a_recording_of_two_worlds_has_no_record(tmp_path: Path) -> None:
    async def scenario(player: Player, served: TestServer, http: aiohttp.ClientSession) -> None:
        async with guest(served, http) as one:
            await one.say(type="record", on=True)
            for seed in (1, 2):
                await one.say(type="start", seed=seed)
                await one.until(lambda: len(one.frames) > 5)
                one.frames.clear()
            said = await recording(one)
            assert said["record"] == "" and list(player.recording_folder.glob("*.mp4")) and not list(player.recording_folder.glob("*.mp4.json"))

    visit(tmp_path, scenario, origins=Origins(lambda: ModelIdentity(sha256="0" * 64)))
