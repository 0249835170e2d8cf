"""One interactive session (paper 5.2): first frame, text and controls in, frames out, chunk by chunk.

A step is two halves, `denoise` and `decode`: an engine runs the denoising of a chunk beside the decoding of the one before.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moworld.camera.cameras import resize_to_cover
from moworld.camera.controls import Walk, parse_controls
from moworld.errors import InputError
from moworld.model.codec import Cache
from moworld.model.rollout import Rollout
from moworld.model.text import TextEncoder
from moworld.model.world import WorldModel

Frames = NDArray[np.uint8]


class WorldSession:
    """A world that is open: `open` encodes the first frame and the prompt once, `step` generates the next chunk.

    text_encoder:  reused between sessions when given; otherwise it is loaded at `open` and released after it (on-demand loading)
    codec:         reused between sessions when given
    chunk_latents: new latent frames a step; None takes the number that the model was trained with. Fewer answer controls sooner.
    """

    def __init__(
        self, model: WorldModel, text_encoder: TextEncoder | None = None, codec: Any = None, chunk_latents: int | None = None
    ) -> None:
        self.model, self.text_encoder, self.codec = model, text_encoder, model.codec if codec is None else codec
        self.chunk_latents = chunk_latents or model.config.model.chunk_latents
        if not 1 <= self.chunk_latents <= model.config.model.chunk_latents:
            wanted = f"1 to {model.config.model.chunk_latents}, the model's own"
            raise InputError("session", "chunk_latents", self.chunk_latents, wanted, "choose a length the model has learned")
        self.rollout: Rollout | None = None
        self.cache: Cache | None = None
        self.walk = Walk()

    @property
    def chunk_frames(self) -> int:
        """Video frames that a step gives: 4 per latent frame."""
        return 4 * self.chunk_latents

    @torch.inference_mode()
    def open(self, first_frame: Frames, prompt: str = "", seed: int = 0, intrinsics: tuple[float, ...] | None = None) -> Frames:
        """Start a world.

        first_frame: (H, W, 3) uint8 of any size; its central crop with the model's aspect is used
        intrinsics:  normalised fx, fy, cx, cy of that crop; None takes the footage's
        returns:     (1, height, width, 3) uint8, the first frame as the codec gives it back
        Raises InputError for a frame of another shape or dtype.
        """
        config = self.model.config
        if first_frame.ndim != 3 or first_frame.shape[2] != 3 or first_frame.dtype != np.uint8:
            raise InputError(
                "first_frame", "shape", f"{first_frame.shape} {first_frame.dtype}", "(H, W, 3) uint8", "convert the image to RGB"
            )
        frame = torch.from_numpy(resize_to_cover(first_frame, (config.height, config.width)).copy())
        latent = self.codec.encode(frame.permute(2, 0, 1)[None, :, None].float() / 127.5 - 1)
        encoder = self.text_encoder or self.model.text_encoder
        self.rollout = Rollout(
            self.model.experts,
            latent,
            encoder.encode([prompt]),
            torch.tensor([intrinsics or config.intrinsics], dtype=torch.float32),
            schedule=config.schedule,
            policy=config.model.history,
            chunk_latents=self.chunk_latents,
            generator=torch.Generator().manual_seed(seed),
            denoise=self.model.denoise,
        )
        self.walk, self.cache = Walk(config.move_units, config.yaw_degrees), None
        return self.decode(latent)

    def step(self, controls: str | Iterable[Iterable[str]]) -> Frames:
        """The next chunk under keyboard controls, one entry a frame ("w*12", or an iterable of key sets); too few are filled with rest.

        returns: (chunk_frames, height, width, 3) uint8
        Raises InputError for controls that cannot be read or are longer than a chunk.
        """
        return self.decode(self.denoise(controls))

    def step_poses(self, c2w: NDArray[np.float64]) -> Frames:
        """The next chunk along poses (chunk_frames, 4, 4) in the world of the first frame, model units -> (chunk_frames, H, W, 3) uint8."""
        return self.decode(self.denoise_poses(c2w))

    def denoise_poses(self, c2w: NDArray[np.float64]) -> Tensor:
        """The first half of `step_poses`: latents, as `denoise` gives them."""
        rollout = self._opened()
        if c2w.shape != (self.chunk_frames, 4, 4):
            raise InputError("c2w", "shape", c2w.shape, f"({self.chunk_frames}, 4, 4)", "give one pose for each frame of a chunk")
        self.walk.stand_at(c2w[-1])
        return _next_chunk(rollout, c2w)

    def denoise(self, controls: str | Iterable[Iterable[str]]) -> Tensor:
        """The first half of `step`: latents (1, C, chunk_latents, h, w), written back to the history bank."""
        rollout = self._opened()
        actions = parse_controls(controls) if isinstance(controls, str) else [frozenset(keys) for keys in controls]
        if len(actions) > self.chunk_frames:
            raise InputError("controls", "", f"{len(actions)} frames", f"at most {self.chunk_frames}", "step chunk by chunk")
        actions += [frozenset()] * (self.chunk_frames - len(actions))
        return _next_chunk(rollout, self.walk.go(actions))

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Frames:
        """The second half: frames (T, height, width, 3) uint8 of latents that follow those decoded before."""
        video, self.cache = self.codec.decode_chunk(latents, self.cache)
        return to_bytes(video)[0].permute(1, 2, 3, 0).contiguous().numpy()  # type: ignore[no-any-return]

    def _opened(self) -> Rollout:
        if self.rollout is None:
            raise InputError("session", "", "no open world", "open(first_frame, prompt) first", "call open")
        return self.rollout


@torch.inference_mode()
def _next_chunk(rollout: Rollout, c2w: NDArray[np.float64]) -> Tensor:
    return rollout.next_chunk(torch.as_tensor(c2w, dtype=torch.float32)[None])


def to_bytes(video: Tensor) -> Tensor:
    """Video in [-1, 1] to uint8 in [0, 255]; what is uint8 already stays as it is."""
    return video if video.dtype == torch.uint8 else ((video + 1) * 127.5).round().clamp(0, 255).byte()


def stream(session: WorldSession, chunks: Iterable[tuple[Callable[[Any], Tensor], Any]]) -> Iterator[Frames]:
    """Frames of chunk after chunk, each denoised while the one before is decoded.

    chunks: the session's `denoise` or `denoise_poses`, with its argument, for each chunk
    """
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
        decoding: Future[Frames] | None = None
        for denoise, controls in chunks:
            latents = denoise(controls)
            if decoding is not None:
                yield decoding.result()
            decoding = decoder.submit(session.decode, latents)
        if decoding is not None:
            yield decoding.result()
