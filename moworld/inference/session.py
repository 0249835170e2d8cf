"""One interactive session (paper 5.2): first frame, text and controls in, frames out, chunk by chunk."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from moworld.camera.cameras import cover_crop
from moworld.camera.controls import controls_to_c2w
from moworld.errors import InputError
from moworld.model.codec import Cache
from moworld.model.rollout import Rollout
from moworld.model.text import TextEncoder, make_text_encoder
from moworld.model.world import WorldModel

Frames = NDArray[np.uint8]


class WorldSession:
    """A world that is open: `open` encodes the first frame and the prompt once, `step` generates the next chunk.

    text_encoder: reused between sessions when given; otherwise it is loaded at `open` and released after it (on-demand loading)
    """

    def __init__(self, model: WorldModel, text_encoder: TextEncoder | None = None) -> None:
        self.model, self.text_encoder, self.codec = model, text_encoder, model.codec
        self.rollout: Rollout | None = None
        self.cache: Cache | None = None
        self.pose = np.eye(4)

    @property
    def chunk_frames(self) -> int:
        """Video frames that a step gives: 4 per latent frame."""
        return 4 * self.model.config.model.chunk_latents

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
        frame = torch.from_numpy(fit_frame(first_frame, (config.height, config.width)).copy())
        latent = self.codec.encode(frame.permute(2, 0, 1)[None, :, None].float() / 127.5 - 1)
        encoder = self.text_encoder or make_text_encoder(config.text)
        self.rollout = Rollout(
            self.model.experts,
            latent,
            encoder.encode([prompt]),
            torch.tensor([intrinsics or config.intrinsics], dtype=torch.float32),
            schedule=config.schedule,
            policy=config.model.history,
            chunk_latents=config.model.chunk_latents,
            generator=torch.Generator().manual_seed(seed),
        )
        self.pose, self.cache = np.eye(4), None
        return self._decode(latent)

    def step(self, controls: str | Iterable[Iterable[str]]) -> Frames:
        """The next chunk under keyboard controls, one entry a frame ("w*12", or an iterable of key sets); too few are filled with rest.

        returns: (chunk_frames, height, width, 3) uint8
        Raises InputError for controls that cannot be read or are longer than a chunk.
        """
        config = self.model.config
        actions = controls if isinstance(controls, str) else [frozenset(keys) for keys in controls]
        relative = controls_to_c2w(actions, step=config.move_units, degrees=config.yaw_degrees)[1:]
        if len(relative) > self.chunk_frames:
            raise InputError("controls", "", f"{len(relative)} frames", f"at most {self.chunk_frames}", "step chunk by chunk")
        last = relative[-1:] if len(relative) else np.eye(4)[None]
        relative = np.concatenate([relative, last.repeat(self.chunk_frames - len(relative), axis=0)])
        return self.step_poses(self.pose @ relative)

    @torch.inference_mode()
    def step_poses(self, c2w: NDArray[np.float64]) -> Frames:
        """The next chunk along poses (chunk_frames, 4, 4) in the world of the first frame, model units -> (chunk_frames, H, W, 3) uint8."""
        if self.rollout is None:
            raise InputError("session", "", "no open world", "open(first_frame, prompt) first", "call open")
        if c2w.shape != (self.chunk_frames, 4, 4):
            raise InputError("c2w", "shape", c2w.shape, f"({self.chunk_frames}, 4, 4)", "give one pose for each frame of a chunk")
        self.pose = np.asarray(c2w[-1], dtype=np.float64)
        return self._decode(self.rollout.next_chunk(torch.as_tensor(c2w, dtype=torch.float32)[None]))

    def _decode(self, latents: torch.Tensor) -> Frames:
        video, self.cache = self.codec.decode_chunk(latents, self.cache)
        return ((video[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()  # type: ignore[no-any-return]


def fit_frame(frame: Frames, size_hw: tuple[int, int]) -> Frames:
    """The central crop of a frame (H, W, 3) with the aspect of `size_hw`, resized to it by area averaging."""
    import cv2

    height, width = frame.shape[:2]
    x0, y0, x1, y1 = cover_crop((height, width), size_hw)
    crop = frame[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
    return cv2.resize(crop, size_hw[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
