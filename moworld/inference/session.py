"""One interactive session (paper 5.2): first frame, prompt and controls in, frames out, chunk by chunk.

A step has two halves, `denoise` and `decode`, so that a chunk can be denoised while the one before is decoded.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moworld.camera.cameras import resize_to_cover
from moworld.camera.controls import Walk, parse_controls
from moworld.devices import use_device
from moworld.errors import InputError
from moworld.inference.failures import memory_errors
from moworld.inference.threads import decodes_beside
from moworld.model.codec import Cache
from moworld.model.latent_grid import CODEC_GRID
from moworld.model.rollout import Rollout, world_generator
from moworld.model.text import TextEncoder
from moworld.model.world import WorldModel
from moworld.video import Frames

Controls = str | Iterable[Iterable[str]] | NDArray[np.float64]  # see `WorldSession.step`


class WorldSession:
    """One world: `open` encodes the first frame and the prompt once, `step` generates the next chunk.

    text_encoder:  None loads the model's encoder for each prompt and frees it afterwards
    codec:         None loads the model's codec
    chunk_latents: new latent frames of a step, 4 frames each; None is the trained number. Shorter chunks react sooner to controls.
    Raises InputError if chunk_latents is larger than the trained number.
    """

    def __init__(
        self, model: WorldModel, text_encoder: TextEncoder | None = None, codec: Any = None, chunk_latents: int | None = None
    ) -> None:
        longest = model.config.model.chunk_latents
        self.model, self.text_encoder, self.codec = model, text_encoder, model.codec if codec is None else codec
        self.chunk_latents = chunk_latents or longest
        if not 1 <= self.chunk_latents <= longest:
            raise InputError("session", "chunk_latents", self.chunk_latents, f"1 to {longest}, as trained", "choose a shorter chunk")
        self.rollout: Rollout | None = None
        self.cache: Cache | None = None
        self.walk = Walk()
        self._turn: tuple[Tensor, int] | None = None  # the text that a changed prompt leads to, and the chunks left until then
        self._turn_lock = threading.Lock()

    @property
    def chunk_frames(self) -> int:
        """Video frames of a step."""
        return CODEC_GRID.frames_after_first(self.chunk_latents)

    @memory_errors("opening a world")
    @torch.inference_mode()
    def open(self, first_frame: Frames, prompt: str = "", seed: int = 0) -> Frames:
        """Starts a world and returns (1, height, width, 3) uint8, the first frame after the codec.

        first_frame: (H, W, 3) uint8 of any size; its central crop with the model's aspect is used
        seed:        of the noise, together with the first frame (see `world_generator`)
        prompt:      "" means no text condition: zeros, as text dropout in training, and no text encoder is loaded
        Raises InputError for a first frame of another shape or dtype, and for a prompt if the extra `text` is not installed.
        """
        config, device = self.model.config, self.model.device
        if first_frame.ndim != 3 or first_frame.shape[2] != 3 or first_frame.dtype != np.uint8:
            found = f"{first_frame.shape} {first_frame.dtype}"
            raise InputError("first_frame", "shape", found, "(H, W, 3) uint8", "convert the image to RGB")
        picture = resize_to_cover(first_frame, (config.height, config.width))
        latent = self.codec.encode(torch.from_numpy(picture).to(device).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1)
        text = self._encode(prompt)
        self.rollout = Rollout(
            self.model.experts,
            latent,
            text,
            torch.tensor([config.intrinsics], device=device),
            schedule=config.schedule,
            policy=config.model.history,
            chunk_latents=self.chunk_latents,
            generator=world_generator(seed, picture),
            least_spread=config.model.least_spread,
            denoise=self.model.denoiser.denoise,
        )
        self.walk, self.cache, self._turn = Walk(config.move_units, config.yaw_degrees), None, None
        return self.decode(latent)

    @torch.inference_mode()
    def change_prompt(self, prompt: str, chunks: int = 1) -> None:
        """Changes the prompt of the open world from the next chunk on, in equal parts of its embedding over `chunks` chunks.

        Encodes at once, so it may be called from another thread than the one that denoises. A later change replaces one that is not complete.
        Raises InputError without an open world, and as `open` does for a prompt.
        """
        self._require_world()
        text = self._encode(prompt)
        with self._turn_lock:
            self._turn = text, max(1, chunks)

    def _encode(self, prompt: str) -> Tensor:
        config, device = self.model.config, self.model.device
        if prompt:
            return (self.text_encoder or self.model.text_encoder).encode([prompt]).to(device)
        return torch.zeros(1, config.text.length, config.model.text_dim, device=device)

    def _require_world(self) -> Rollout:
        if self.rollout is None:
            raise InputError("session", "", "no open world", "an open world", "call open(first_frame, prompt) first")
        return self.rollout

    def _turn_text(self, rollout: Rollout) -> None:
        """Moves the text of the next chunk towards that of a changed prompt."""
        with self._turn_lock:
            if self._turn is not None:
                text, left = self._turn
                rollout.text = torch.lerp(rollout.text, text, 1 / left)
                self._turn = (text, left - 1) if left > 1 else None

    def step(self, controls: Controls) -> Frames:
        """Returns the next chunk, (chunk_frames, height, width, 3) uint8, under keys or along poses.

        controls: "w*12", or one set of keys per frame (missing frames get no key), or poses c2w (chunk_frames, 4, 4) in model units and
                  in the world of the first frame
        Raises InputError for invalid controls and for more frames than a chunk has.
        """
        return self.decode(self.denoise(controls))

    @memory_errors("denoising")
    @torch.inference_mode()
    def denoise(self, controls: Controls) -> Tensor:
        """First half of `step`: returns latents (1, C, chunk_latents, h, w) and appends them to the history bank."""
        rollout = self._require_world()
        if isinstance(controls, np.ndarray):
            if controls.shape != (self.chunk_frames, 4, 4):
                found, expected = controls.shape, f"({self.chunk_frames}, 4, 4)"
                raise InputError("c2w", "shape", found, expected, "pass one pose for each frame of a chunk")
            self.walk.set_pose(controls[-1])
            c2w = controls
        else:
            actions = parse_controls(controls) if isinstance(controls, str) else [frozenset(keys) for keys in controls]
            if len(actions) > self.chunk_frames:
                raise InputError("controls", "", f"{len(actions)} frames", f"at most {self.chunk_frames}", "step chunk by chunk")
            c2w = self.walk.go(actions + [frozenset()] * (self.chunk_frames - len(actions)))
        self._turn_text(rollout)
        return rollout.next_chunk(torch.as_tensor(c2w, dtype=torch.float32)[None])

    @memory_errors("decoding")
    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Frames:
        """Second half: returns frames (T, height, width, 3) uint8 of the latents that follow those decoded before."""
        video, self.cache = self.codec.decode_chunk(latents, self.cache)
        return to_bytes(video)[0].permute(1, 2, 3, 0).contiguous().cpu().numpy()  # type: ignore[no-any-return]


class LazyTextEncoder:
    """Loads the text encoder of a model on first use and keeps it."""

    def __init__(self, model: WorldModel) -> None:
        self.model = model

    @cached_property
    def _encoder(self) -> TextEncoder:
        return self.model.text_encoder

    def encode(self, prompts: list[str]) -> Tensor:
        return self._encoder.encode(prompts)


def to_bytes(video: Tensor) -> Tensor:
    """Returns video in [-1, 1] as uint8 in [0, 255]; uint8 is returned unchanged."""
    return video if video.dtype == torch.uint8 else ((video + 1) * 127.5).round().clamp(0, 255).byte()


def stream(session: WorldSession, chunks: Iterable[Controls]) -> Iterator[Frames]:
    """Yields the frames of each chunk, given its controls; a chunk is denoised while the one before is decoded (see `decodes_beside`)."""
    if not decodes_beside(session.codec):
        yield from map(session.step, chunks)
        return
    with ThreadPoolExecutor(1, "decode", use_device, (session.model.device,)) as decoder:
        decoding: Future[Frames] | None = None
        for controls in chunks:
            latents = session.denoise(controls)
            if decoding is not None:
                yield decoding.result()
            decoding = decoder.submit(session.decode, latents)
        if decoding is not None:
            yield decoding.result()
