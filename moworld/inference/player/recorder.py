"""Recordings of the player: a video of the frames that were played, and a record of where it comes from (see `moworld.inference.provenance`).

A recording may begin in the middle of a walk. Its record describes the walk from its first frame on, and says which of its frames the video
begins with. Frames of two worlds in one recording have no record.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from moworld.inference.engine import Engine
from moworld.inference.openvino import OpenVinoDenoiser
from moworld.inference.pictures import encode_png, read_picture
from moworld.inference.player.messages import Start
from moworld.inference.player.stream import RECORDED_FRAMES, Stream
from moworld.inference.provenance import Controls, Embedder, FrameDigests, ModelIdentity, Signer, encode_picture, write_sidecar
from moworld.video import Frames, write_video

KEPT_RECORDINGS = 8
RECORDED_HEIGHT = 480  # pixels at least: frames of small models are enlarged by an integer factor


@dataclass
class Origins:
    """What records of one server have in common.

    identify:  returns the model's identity; called once, at the first recording, because it reads every file of the model
    sign:      signs a record; None leaves it unsigned
    embed:     see `write_sidecar`
    quantized: whether the model was converted to INT8 while it was loaded
    """

    identify: Callable[[], ModelIdentity]
    sign: Signer | None = None
    quantized: bool = False
    embed: Embedder | None = None

    @cached_property
    def model(self) -> ModelIdentity:
        return self.identify()


@dataclass(frozen=True)
class Walk:
    """A walk that was recorded: facts of its record. first: number of the walk's frame with which the video begins."""

    controls: Controls
    digests: FrameDigests
    first: int


def walk_of(stream: Stream, engine: Engine, start: Start, prompt: str, picture: Frames, origins: Origins) -> Walk | None:
    """Returns the walk of the frames in `stream.recorded`; None if they are of several worlds, or of a walk that is too long to note.

    picture: (height, width, 3) uint8 in the model's size
    """
    world, first = stream.recorded_from
    actions = stream.walked.all_controls
    if world != stream.world or not actions or len(stream.recorded) != min(RECORDED_FRAMES, stream.number - first):
        return None
    session = stream.slot.session
    controls = Controls(
        actions=actions, prompt=prompt, seed=start.seed, picture=encode_picture(picture), chunk_latents=session.chunk_latents,
        picture_sha256=hashlib.sha256(encode_png(picture)).hexdigest(), quantized_while_loading=origins.quantized,
        backend="openvino" if isinstance(engine.model.denoiser, OpenVinoDenoiser) else "torch",
    )  # fmt: skip
    config, chunks = engine.model.config, tuple(stream.digests)
    count = 1 + (len(chunks) - 1) * session.chunk_frames
    return Walk(controls, FrameDigests(count=count, height=config.height, width=config.width, fps=stream.fps, chunks=chunks), first)


def write_recording(folder: Path, jpegs: list[bytes], fps: float, walk: Walk | None, origins: Origins | None) -> str:
    """Writes a recording and its record, if there is a walk, under a random name, which it returns, and deletes the oldest ones."""
    name = secrets.token_hex(16)
    path = folder / f"{name}.mp4"
    write_video(path, map(_enlarged, map(read_picture, jpegs)), fps)
    if walk is not None and origins is not None:
        write_sidecar(path, "recording", origins.model, walk.controls, walk.digests, origins.sign, walk.first, origins.embed)
    for old in sorted(folder.glob("*.mp4"), key=lambda path: path.stat().st_mtime)[:-KEPT_RECORDINGS]:
        old.unlink(missing_ok=True)
        Path(f"{old}.json").unlink(missing_ok=True)
    return name


def _enlarged(frame: Frames) -> Frames:
    """Returns a frame (H, W, 3) uint8 enlarged by the smallest integer factor with which it has `RECORDED_HEIGHT` pixels or more."""
    height, width = frame.shape[:2]
    factor = -(-RECORDED_HEIGHT // height)
    return frame if factor == 1 else np.asarray(Image.fromarray(frame).resize((width * factor, height * factor), Image.Resampling.BICUBIC))
