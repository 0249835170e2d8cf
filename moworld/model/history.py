"""History context selection (paper 4.2): a bank of latent frames, never of keys and values, and the policy that picks what a chunk sees.

The policy is a small pure function. It is the only place that decides which latent frames enter the context.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from moworld.model.latent_cameras import LatentCameras, fields_of_view_overlap
from moworld.settings import Settings


class HistoryPolicy(Settings):
    """How many latent frames a chunk sees besides its anchor: the first one, `recent` latest ones and `camera` ones from similar views.

    similarity: `camera_latent`, the paper's: distance of camera latents; `field_of_view`: share of the chunk's views that a frame saw.
                `camera: 0` with a higher `recent` is the policy that knows no places, only times.
    capacity:   how many latent frames the bank holds at most, so that a session's memory ends somewhere; 0 holds all. Of views that are
                alike the oldest stays, which has drifted least.
    """

    recent: int = 2
    camera: int = 2
    similarity: Literal["camera_latent", "field_of_view"] = "camera_latent"
    capacity: int = Field(default=512, ge=0)

    @model_validator(mode="after")
    def _room_for_a_choice(self) -> Self:
        if 0 < self.capacity < 8 * self.num_frames:
            raise ValueError(f"capacity {self.capacity} leaves no choice: at least {8 * self.num_frames}, or 0 for all")
        return self

    @property
    def num_frames(self) -> int:
        return 1 + self.recent + self.camera


def select_history(distance: Tensor, policy: HistoryPolicy) -> Tensor:
    """Which latent frames a chunk sees: the first, the most recent, and those seen from the most similar camera.

    distance: (B, M) of the M frames in the bank, in the order of time, to the views that the chunk will have; nearest first
    returns:  (B, policy.num_frames) int64 indices into the bank, ascending. No frame is chosen twice while M allows;
              a bank that holds fewer frames is filled up with its first frame, so the token budget is fixed.
    """
    batch, num_frames = distance.shape
    recent_start = max(1, num_frames - policy.recent)
    always = [0, *range(recent_start, num_frames)]
    num_similar = min(policy.camera, recent_start - 1)
    candidates = distance[:, 1:recent_start]
    similar = 1 + candidates.topk(num_similar, dim=1, largest=False).indices if num_similar > 0 else distance.new_zeros((batch, 0)).long()
    fixed = torch.tensor(always, device=similar.device).expand(batch, -1)
    filling = torch.zeros((batch, policy.num_frames - len(always) - num_similar), dtype=torch.long, device=similar.device)
    return torch.cat([filling, fixed, similar], dim=1).sort(dim=1).values


def camera_latent_distance(camera_latents: Tensor, chunk_camera_latents: Tensor) -> Tensor:
    """Distance (B, M) of each frame's camera latent (B, M, D) to the mean of the chunk's, (B, L, D) (paper 4.2)."""
    mean = chunk_camera_latents.mean(1, keepdim=True)
    return torch.cdist(camera_latents, mean, compute_mode="donot_use_mm_for_euclid_dist")[..., 0]  # one pass, no difference in memory


class Growing:
    """A tensor that grows along dim 1 by doubling its storage: appending costs what is appended, however long it has become."""

    def __init__(self, value: Tensor) -> None:
        self.storage, self.length = value.detach().clone(), value.shape[1]

    @property
    def value(self) -> Tensor:
        return self.storage[:, : self.length]

    def append(self, value: Tensor) -> None:
        needed = self.length + value.shape[1]
        if needed > self.storage.shape[1]:
            larger = self.storage.new_empty(self.storage.shape[0], 2 * needed, *self.storage.shape[2:])
            larger[:, : self.length] = self.value
            self.storage = larger
        self.storage[:, self.length : needed] = value.detach()
        self.length = needed

    def keep(self, indices: Tensor) -> None:
        """Only these of dim 1, (B, K) ascending; the storage stays."""
        rows = torch.arange(len(indices), device=indices.device)[:, None]
        self.storage[:, : indices.shape[1]] = self.storage[rows, indices]
        self.length = indices.shape[1]


class HistoryBank:
    """Latent frames generated so far with their cameras and places in time. Gradients do not enter it."""

    def __init__(self, latents: Tensor, cameras: LatentCameras, capacity: int = 0) -> None:
        """latents: (B, C, M, h, w); cameras of the M frames, all in one world; capacity: see `HistoryPolicy`."""
        self.capacity, self.time = capacity, latents.shape[2]  # time: of the frame that comes next
        self._latents = Growing(latents.transpose(1, 2))  # frames outermost: a frame is one stretch of memory
        self._intrinsics, self._c2w = Growing(cameras.intrinsics), Growing(cameras.c2w)
        self._views = Growing(cameras.latents())  # in the world's frame, made once a frame
        self._times = Growing(torch.arange(self.time, device=latents.device).expand(len(latents), -1))

    def __len__(self) -> int:
        return self._latents.length

    @property
    def latents(self) -> Tensor:
        """(B, C, M, h, w), a view."""
        return self._latents.value.transpose(1, 2)

    @property
    def cameras(self) -> LatentCameras:
        """Of the M frames, views."""
        return LatentCameras(self._intrinsics.value, self._c2w.value)

    @property
    def _parts(self) -> tuple[Growing, ...]:
        return self._latents, self._intrinsics, self._c2w, self._views, self._times

    @property
    def nbytes(self) -> int:
        """Bytes of all that is held of the frames: latents, cameras, camera latents and times."""
        return sum(part.value.nbytes for part in self._parts)

    def append(self, latents: Tensor, cameras: LatentCameras) -> None:
        """Latents (B, C, L, h, w) of the next frames, and their cameras."""
        self._latents.append(latents.transpose(1, 2))
        self._intrinsics.append(cameras.intrinsics)
        self._c2w.append(cameras.c2w)
        self._views.append(cameras.latents())
        times = torch.arange(self.time, self.time + latents.shape[2], device=latents.device)
        self._times.append(times.expand(len(latents), -1))
        self.time += latents.shape[2]
        if self.capacity and len(self) > self.capacity:
            kept = self.capacity - self.capacity // 8  # an eighth at once: what it takes to choose is shared out over many chunks
            distance = view_distance(self.cameras)
            chosen = torch.stack([distinct_views(of_one, kept, len(self) - self.capacity // 4) for of_one in distance])
            for part in self._parts:
                part.keep(chosen)

    def select(self, chunk_cameras: LatentCameras, policy: HistoryPolicy) -> Tensor:
        """(B, policy.num_frames) indices. Camera latents are compared about the anchor, the bank's last frame: moments depend on the origin."""
        if not policy.camera or len(self) <= 1 + policy.recent:  # none is left to choose from
            return select_history(self._views.value.new_zeros(self._views.value.shape[:2]), policy)
        if policy.similarity == "field_of_view":
            return select_history(-fields_of_view_overlap(self.cameras, chunk_cameras), policy)
        about = self.cameras.last_pose()[:, :3, 3]
        own, chunk = (move_origin(latents, about) for latents in (self._views.value, chunk_cameras.latents()))
        return select_history(camera_latent_distance(own, chunk), policy)

    def gather(self, indices: Tensor) -> Tensor:
        """indices (B, K) -> latents (B, C, K, h, w)."""
        rows = torch.arange(indices.shape[0], device=indices.device)[:, None]
        return self._latents.value[rows, indices].transpose(1, 2)

    def times(self, indices: Tensor) -> Tensor:
        """indices (B, K) -> global latent time ids (B, K)."""
        return self._times.value.gather(1, indices)


def view_distance(cameras: LatentCameras) -> Tensor:
    """How far apart the views of each two of M latent frames are, (B, M, M): their axes, and their places in model units."""
    pose = cameras.c2w[:, :, 3].double()
    views = torch.cat([pose[..., :3, :3].flatten(2), pose[..., :3, 3]], dim=-1)
    return torch.cdist(views, views, compute_mode="donot_use_mm_for_euclid_dist")


def distinct_views(distance: Tensor, count: int, protected: int) -> Tensor:
    """`count` ascending indices of M frames (M, M): time after time the frame that is nearest to an older one goes.

    protected: index from which on frames stay, the most recent ones; the first frame has none before it and stays, too
    """
    size = len(distance)
    older = torch.ones(size, size, dtype=torch.bool, device=distance.device).triu(1)  # row before column
    distance = distance.masked_fill(~older, torch.inf)
    distance[:, protected:] = torch.inf
    alive = torch.ones(size, dtype=torch.bool, device=distance.device)
    for _ in range(size - count):
        gone = distance.amin(0).argmin()
        alive[gone] = False
        distance[gone], distance[:, gone] = torch.inf, torch.inf
    return alive.nonzero()[:, 0]


def move_origin(camera_latents: Tensor, origin: Tensor) -> Tensor:
    """Camera latents (B, M, D) with moments about `origin` (B, 3): m' = m - origin x d. Turning the axes would change no distance."""
    x, y, z = origin.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))  # origin x d = cross @ d
    shift = torch.eye(6, dtype=origin.dtype, device=origin.device).repeat(len(origin), 1, 1)
    shift[:, 3:, :3] = -cross.transpose(1, 2)  # rows are rays: (m, d) @ shift
    return (camera_latents.unflatten(-1, (-1, 6)).flatten(1, 2) @ shift).unflatten(1, (camera_latents.shape[1], -1)).flatten(2)
