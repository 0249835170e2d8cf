"""The cameras of latent frames: four per latent frame, as the 4x temporal codec groups its frames.

The first latent frame of a sequence holds one video frame, whose camera is repeated four times; every later one holds four consecutive frames.
All poses share one world and one translation scale, so that distances between views mean the same in every chunk.
"""

from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from moworld.camera.rays import camera_directions, pluecker_rays

POOL = (2, 3)  # cells of the ray map that make up a camera latent
PROBE_GRID, PROBES = (3, 5), (1.0, 3.0)  # rays a view, and distances in model units, at which overlap is probed


def invert_pose(pose: Tensor) -> Tensor:
    """Inverse of rigid transforms (..., 4, 4)."""
    rotation = pose[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(pose)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3:] = -rotation @ pose[..., :3, 3:]
    inverse[..., 3, 3] = 1
    return inverse


@dataclass(frozen=True)
class LatentCameras:
    """intrinsics: (B, F, 4, 4) normalised fx fy cx cy of the four frames; c2w: (B, F, 4, 4, 4), translations in model units."""

    intrinsics: Tensor
    c2w: Tensor

    @staticmethod
    def from_frames(intrinsics: Tensor, c2w: Tensor) -> "LatentCameras":
        """Group a sequence of video frames: intrinsics (B, T, 4), c2w (B, T, 4, 4), T = 4 k + 1 -> F = k + 1."""
        intrinsics, c2w = (torch.cat([x[:, :1].expand(-1, 3, *x.shape[2:]), x], dim=1) for x in (intrinsics, c2w))
        return LatentCameras.from_chunk(intrinsics, c2w)

    @staticmethod
    def from_chunk(intrinsics: Tensor, c2w: Tensor) -> "LatentCameras":
        """Group the frames of a chunk that follows others: intrinsics (B, 4 F, 4), c2w (B, 4 F, 4, 4)."""
        return LatentCameras(intrinsics.unflatten(1, (-1, 4)), c2w.unflatten(1, (-1, 4)))

    def __len__(self) -> int:
        return self.c2w.shape[1]

    def __getitem__(self, frames: slice) -> "LatentCameras":
        return LatentCameras(self.intrinsics[:, frames], self.c2w[:, frames])

    def gather(self, indices: Tensor) -> "LatentCameras":
        """indices: (B, K) latent frame of each sequence -> K latent frames."""
        rows = torch.arange(indices.shape[0], device=indices.device)[:, None]
        return LatentCameras(self.intrinsics[rows, indices], self.c2w[rows, indices])

    def cat(self, other: "LatentCameras") -> "LatentCameras":
        return LatentCameras(torch.cat([self.intrinsics, other.intrinsics], 1), torch.cat([self.c2w, other.c2w], 1))

    def last_pose(self, frame: int = -1) -> Tensor:
        """(B, 4, 4) pose of the last video frame of latent frame `frame`."""
        return self.c2w[:, frame, 3]

    def relative_to(self, pose: Tensor) -> "LatentCameras":
        """The same cameras in the frame of `pose` (B, 4, 4), which becomes the identity."""
        return LatentCameras(self.intrinsics, invert_pose(pose)[:, None, None] @ self.c2w)

    def rays(self, height: int, width: int, like: "Rays | None" = None) -> "Rays":
        """Grouped Plücker rays of (height, width) pixels (eq. 2 to 4): frame in the group outermost, moment before direction.

        like: earlier rays, whose directions and what was made of them are taken over where the intrinsics are the same
        """
        batch, frames = self.c2w.shape[:2]
        rotation, position = self.c2w[..., :3, :3], self.c2w[..., :3, 3:]
        x, y, z = rotation.unbind(-2)  # rows, (B, F, 4, 3) each
        px, py, pz = position.unbind(-2)
        motion = torch.stack([py * z - pz * y, pz * x - px * z, px * y - py * x, x, y, z], dim=-2)  # t x R, then R
        lens = self.intrinsics
        if bool((lens == lens[:1, :1, :1]).all()):
            lens = lens[:1, :1, :1]
        elif bool((lens == lens[:, :1, :1]).all()):
            lens = lens[:, :1, :1]
        motion = motion.reshape(batch, frames, 24, 3)
        if like is not None and like.lens is not None and torch.equal(like.lens, lens):
            return Rays(motion, like.directions, lens, like.products)
        return Rays(motion, camera_directions(lens.to(motion), height, width).movedim(-1, -3), lens)

    def latents(self) -> Tensor:
        """Camera latents (B, F, D): the rays of a coarse grid, each moment beside its direction. Close views, close latents (paper 4.2)."""
        batch, frames = self.c2w.shape[:2]
        return pluecker_rays(self.intrinsics.reshape(batch, -1, 4), self.c2w.reshape(batch, -1, 4, 4), *POOL).reshape(batch, frames, -1)


@dataclass(frozen=True)
class Rays:
    """Grouped Plücker rays in two factors, for a ray is linear in its direction in the camera's axes: [t x R; R] d_c (eq. 2 to 4).

    motion:     (B, F, 24, 3) of each channel, frame in the group outermost; zeros are an absent camera
    directions: (B, F, 4, 3, H, W) of the pixels in the camera's axes; (B, 1, 1, 3, H, W) where a sequence keeps its intrinsics, and
                (1, 1, 1, 3, H, W) where all sequences share them
    lens:       the intrinsics that the directions are of
    products:   what adapters have made of the directions, by adapter: kept by a rollout, whose weights stay as they are
    """

    motion: Tensor
    directions: Tensor
    lens: Tensor | None = None
    products: WeakKeyDictionary[Any, Tensor] = field(default_factory=WeakKeyDictionary)

    def __len__(self) -> int:
        return self.motion.shape[1]

    def __getitem__(self, frames: slice) -> "Rays":
        if self.directions.shape[1] > 1:
            return Rays(self.motion[:, frames], self.directions[:, frames])
        return replace(self, motion=self.motion[:, frames])

    @property
    def lenses(self) -> int | None:
        """How many intrinsics there are: 1, or B; None where they change within a sequence."""
        return None if self.directions.shape[1:3] != (1, 1) else self.directions.shape[0]

    def to(self, like: Tensor | torch.dtype) -> "Rays":
        return replace(self, motion=self.motion.to(like), directions=self.directions.to(like))

    def without(self, absent: Tensor) -> "Rays":
        """No camera for the samples where the mask (B,) is true."""
        return replace(self, motion=self.motion * (~absent).to(self.motion)[:, None, None, None])

    def maps(self) -> Tensor:
        """The rays of every pixel, (B, 24, F, H, W)."""
        batch, frames = self.motion.shape[:2]
        maps = self.motion.unflatten(2, (4, 6)) @ self.directions.flatten(-2)
        return maps.reshape(batch, frames, 24, *self.directions.shape[-2:]).transpose(1, 2)


def fields_of_view_overlap(cameras: LatentCameras, chunk: LatentCameras) -> Tensor:
    """How much of what the chunk will show each frame has seen, (B, M) in [0, 1].

    Points along the chunk's rays at the distances PROBES are projected into the last view of each of the M latent frames of `cameras`.
    """
    batch = chunk.c2w.shape[0]
    last = LatentCameras(chunk.intrinsics[:, :, 3:], chunk.c2w[:, :, 3:])
    directions = pluecker_rays(last.intrinsics.flatten(1, 2), last.c2w.flatten(1, 2), *PROBE_GRID)[..., 3:]  # (B, L, y, x, 3)
    probes = torch.tensor(PROBES, dtype=directions.dtype, device=directions.device)[:, None]
    points = last.c2w.flatten(1, 2)[:, :, None, None, None, :3, 3] + probes * directions[..., None, :]
    points = points.reshape(batch, 1, -1, 3)
    w2c, intrinsics = invert_pose(cameras.c2w[:, :, 3]), cameras.intrinsics[:, :, 3]
    seen = points @ w2c[..., :3, :3].transpose(-1, -2) + w2c[..., None, :3, 3]  # (B, M, n, 3)
    depth = seen[..., 2]
    picture = seen[..., :2] / depth.clamp_min(1e-6)[..., None] * intrinsics[..., None, :2] + intrinsics[..., None, 2:]
    return ((depth > 0) & (picture >= 0).all(-1) & (picture <= 1).all(-1)).to(points).mean(-1)
