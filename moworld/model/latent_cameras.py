"""The cameras of latent frames: four per latent frame, as the 4x temporal codec groups video frames; and their Plücker rays (eq. 2 to 4).

The first latent frame of a sequence holds one video frame, whose camera is repeated four times; every later one holds four video frames.
All poses share one world and one translation scale, so that distances between views are comparable across chunks.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moworld.camera.rays import camera_directions, pluecker_rays
from moworld.model.latent_grid import CODEC_GRID

GROUP = CODEC_GRID.temporal  # cameras of a latent frame
POOL = (2, 3)  # rows and columns of the ray grid of a camera latent
PROBE_GRID, PROBES = (3, 5), (1.0, 3.0)  # ray grid of a view, and distances in model units, at which overlap is measured


def invert_pose(pose: Tensor) -> Tensor:
    """Returns the inverse of rigid transforms (..., 4, 4)."""
    rotation = pose[..., :3, :3].transpose(-1, -2)
    upper = torch.cat([rotation, -rotation @ pose[..., :3, 3:]], dim=-1)
    return torch.cat([upper, pose[..., 3:, :]], dim=-2)


@dataclass(frozen=True)
class LatentCameras:
    """intrinsics: (B, F, 4, 4) normalised fx fy cx cy of the four frames; c2w: (B, F, 4, 4, 4), translations in model units."""

    intrinsics: Tensor
    c2w: Tensor

    @staticmethod
    def from_frames(intrinsics: Tensor, c2w: Tensor) -> "LatentCameras":
        """Groups a sequence of video frames: intrinsics (B, T, 4), c2w (B, T, 4, 4), T = 4 k + 1 -> F = k + 1."""
        intrinsics, c2w = (torch.cat([x[:, :1].expand(-1, GROUP - 1, *x.shape[2:]), x], dim=1) for x in (intrinsics, c2w))
        return LatentCameras.from_chunk(intrinsics, c2w)

    @staticmethod
    def from_chunk(intrinsics: Tensor, c2w: Tensor) -> "LatentCameras":
        """Groups the frames of a chunk after the first: intrinsics (B, 4 F, 4), c2w (B, 4 F, 4, 4)."""
        return LatentCameras(intrinsics.unflatten(1, (-1, GROUP)), c2w.unflatten(1, (-1, GROUP)))

    def __len__(self) -> int:
        return self.c2w.shape[1]

    def __getitem__(self, frames: slice) -> "LatentCameras":
        return LatentCameras(self.intrinsics[:, frames], self.c2w[:, frames])

    def gather(self, indices: Tensor) -> "LatentCameras":
        """Returns the latent frames `indices` (B, K) of each sequence."""
        rows = torch.arange(indices.shape[0], device=indices.device)[:, None]
        return LatentCameras(self.intrinsics[rows, indices], self.c2w[rows, indices])

    def cat(self, other: "LatentCameras") -> "LatentCameras":
        return LatentCameras(torch.cat([self.intrinsics, other.intrinsics], 1), torch.cat([self.c2w, other.c2w], 1))

    def last_pose(self, frame: int = -1) -> Tensor:
        """Returns the pose (B, 4, 4) of the last video frame of latent frame `frame`."""
        return self.c2w[:, frame, -1]

    def relative_to(self, pose: Tensor) -> "LatentCameras":
        """Returns the cameras in the frame of `pose` (B, 4, 4), which becomes the identity."""
        return LatentCameras(self.intrinsics, invert_pose(pose)[:, None, None] @ self.c2w)

    def rays(self, height: int, width: int, cache: "RayCache | None" = None) -> "Rays":
        """Returns grouped Plücker rays of (height, width) pixels (eq. 2 to 4): frame in the group outermost, moment before direction.

        cache: supplies the pixel directions if the intrinsics are those it holds
        """
        batch, frames = self.c2w.shape[:2]
        rotation, position = self.c2w[..., :3, :3], self.c2w[..., :3, 3:]
        moment = torch.linalg.cross(position.expand_as(rotation), rotation, dim=-2)
        motion = torch.cat([moment, rotation], dim=-2).reshape(batch, frames, 24, 3)  # t x R, then R
        lens = self.intrinsics
        for shared in (lens[:1, :1, :1], lens[:, :1, :1]):
            if bool((lens == shared).all()):
                lens = shared
                break

        def directions() -> Tensor:
            return camera_directions(lens.to(motion), height, width).movedim(-1, -3)

        return Rays(motion, directions() if cache is None else cache.directions_of(lens, directions), cache)

    def latents(self) -> Tensor:
        """Returns camera latents (B, F, D): the rays of a coarse grid, moment before direction. Near views have near latents (paper 4.2)."""
        batch, frames = self.c2w.shape[:2]
        return pluecker_rays(self.intrinsics.reshape(batch, -1, 4), self.c2w.reshape(batch, -1, 4, 4), *POOL).reshape(batch, frames, -1)


class RayCache:
    """Pixel directions of one set of intrinsics, and what adapters computed from them. New intrinsics replace the contents.

    A rollout owns one and passes it to each window. The adapters' weights must not change while it is in use.
    """

    def __init__(self) -> None:
        self.lens: Tensor | None = None
        self.directions, self.products = torch.empty(0), dict[Hashable, Tensor]()

    def directions_of(self, lens: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """Returns the directions of intrinsics `lens`; `compute` gives them if they are new."""
        if self.lens is None or not torch.equal(self.lens, lens):
            self.lens, self.directions, self.products = lens, compute(), {}
        return self.directions

    def product(self, adapter: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """Returns the adapter's product of the directions; `compute` gives it the first time."""
        if adapter not in self.products:
            self.products[adapter] = compute()
        return self.products[adapter]


@dataclass(frozen=True)
class Rays:
    """Grouped Plücker rays as two factors, since a ray is linear in its direction in camera axes: [t x R; R] d_c (eq. 2 to 4).

    motion:     (B, F, 24, 3) per channel, frame in the group outermost; zeros are an absent camera
    directions: (B, F, 4, 3, H, W) per pixel in camera axes; (B, 1, 1, 3, H, W) if the intrinsics are constant in each sequence, and
                (1, 1, 1, 3, H, W) if all sequences share them
    cache:      of these directions; None: adapters compute their products every time
    """

    motion: Tensor
    directions: Tensor
    cache: RayCache | None = None

    def __len__(self) -> int:
        return self.motion.shape[1]

    def __getitem__(self, frames: slice) -> "Rays":
        directions = self.directions[:, frames] if self.directions.shape[1] > 1 else self.directions
        return replace(self, motion=self.motion[:, frames], directions=directions)

    @property
    def num_lenses(self) -> int | None:
        """Number of different intrinsics: 1 or B; None if they change within a sequence."""
        return None if self.directions.shape[1:3] != (1, 1) else self.directions.shape[0]

    def to(self, like: Tensor | torch.dtype) -> "Rays":
        return replace(self, motion=self.motion.to(like), directions=self.directions.to(like))

    def without(self, absent: Tensor) -> "Rays":
        """Returns rays with the camera removed from the samples where the mask (B,) is true."""
        return replace(self, motion=self.motion * (~absent).to(self.motion)[:, None, None, None])

    def maps(self) -> Tensor:
        """Returns the rays of every pixel, (B, 24, F, H, W)."""
        batch, frames = self.motion.shape[:2]
        maps = self.motion.unflatten(2, (4, 6)) @ self.directions.flatten(-2)
        return maps.reshape(batch, frames, 24, *self.directions.shape[-2:]).transpose(1, 2)


def fields_of_view_overlap(cameras: LatentCameras, chunk: LatentCameras) -> Tensor:
    """Returns the share of the chunk's view that each of the M latent frames of `cameras` sees, (B, M) in [0, 1].

    Points along the chunk's rays, at the distances PROBES, are projected into the last view of each latent frame.
    """
    batch = chunk.c2w.shape[0]
    last = LatentCameras(chunk.intrinsics[:, :, -1:], chunk.c2w[:, :, -1:])
    directions = pluecker_rays(last.intrinsics.flatten(1, 2), last.c2w.flatten(1, 2), *PROBE_GRID)[..., 3:]  # (B, L, y, x, 3)
    probes = torch.tensor(PROBES, dtype=directions.dtype, device=directions.device)[:, None]
    points = last.c2w.flatten(1, 2)[:, :, None, None, None, :3, 3] + probes * directions[..., None, :]
    points = points.reshape(batch, 1, -1, 3)
    w2c, intrinsics = invert_pose(cameras.c2w[:, :, -1]), cameras.intrinsics[:, :, -1]
    seen = points @ w2c[..., :3, :3].transpose(-1, -2) + w2c[..., None, :3, 3]  # (B, M, n, 3)
    depth = seen[..., 2]
    image = seen[..., :2] / depth.clamp_min(1e-6)[..., None] * intrinsics[..., None, :2] + intrinsics[..., None, 2:]
    return ((depth > 0) & (image >= 0).all(-1) & (image <= 1).all(-1)).to(points).mean(-1)
