"""The cameras of latent frames: four per latent frame, as the 4x temporal codec groups its frames.

The first latent frame of a sequence holds one video frame, whose camera is repeated four times; every later one holds four consecutive frames.
All poses share one world and one translation scale, so that distances between views mean the same in every chunk.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moworld.camera.rays import pluecker_rays

POOL = (2, 3)  # cells of the ray map that make up a camera latent


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

    def rays(self, height: int, width: int) -> Tensor:
        """Grouped Plücker rays (B, 24, F, height, width) (eq. 2 to 4): frame in the group outermost, moment before direction."""
        batch, frames = self.c2w.shape[:2]
        rays = pluecker_rays(self.intrinsics.reshape(batch, -1, 4), self.c2w.reshape(batch, -1, 4, 4), height, width)
        return rays.reshape(batch, frames, 4, height, width, 6).permute(0, 2, 5, 1, 3, 4).flatten(1, 2)

    def latents(self) -> Tensor:
        """Camera latents (B, F, D): the grouped rays on a coarse grid. Close views, close latents (paper 4.2)."""
        return self.rays(*POOL).permute(0, 2, 1, 3, 4).flatten(2)
