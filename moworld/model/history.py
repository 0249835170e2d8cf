"""History context selection (paper 4.2): a bank of latent frames, not of keys and values, and the selection of frames for a chunk.

`select_history` is a pure function and the only place that decides which latent frames enter the context.
"""

import copy

import torch
from torch import Tensor

from moworld.model.latent_cameras import LatentCameras, fields_of_view_overlap
from moworld.model.settings import HistoryPolicy


def select_history(distance: Tensor, policy: HistoryPolicy) -> Tensor:
    """Returns the latent frames of a chunk's context: the first, the most recent, and those with the nearest views (paper 4.2).

    distance: (B, M) of the bank's M frames, in order of time, to the views of the chunk. The last one is the chunk's anchor, which is in
              the window already: it is selected only if it is the first frame, too
    returns:  (B, policy.num_frames) int64 indices into the bank, ascending and without repetition. If the bank has fewer frames,
              the first one fills the rest, so that the token budget is fixed.
    """
    batch, before_anchor = len(distance), max(1, distance.shape[1] - 1)
    recent_start = max(1, before_anchor - policy.recent)
    always = [0, *range(recent_start, before_anchor)]
    num_similar = min(policy.camera, recent_start - 1)
    candidates = distance[:, 1:recent_start]
    similar = 1 + candidates.topk(num_similar, dim=1, largest=False).indices if num_similar > 0 else distance.new_zeros((batch, 0)).long()
    fixed = torch.tensor(always, device=similar.device).expand(batch, -1)
    filling = torch.zeros((batch, policy.num_frames - len(always) - num_similar), dtype=torch.long, device=similar.device)
    return torch.cat([filling, fixed, similar], dim=1).sort(dim=1).values


def camera_latent_distance(camera_latents: Tensor, chunk_camera_latents: Tensor) -> Tensor:
    """Returns the distance (B, M) of camera latents (B, M, D) to the mean of the chunk's, (B, L, D) (paper 4.2)."""
    mean = chunk_camera_latents.mean(1, keepdim=True)
    return torch.cdist(camera_latents, mean, compute_mode="donot_use_mm_for_euclid_dist")[..., 0]  # one pass; does not store differences


class Growing:
    """A tensor that grows along dim 1 by doubling its storage, so that the cost of appending does not depend on its length."""

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

    def rows(self, indices: Tensor) -> "Growing":
        """Returns copies of `indices` of dim 0."""
        return Growing(self.value[indices])

    def keep(self, indices: Tensor) -> None:
        """Keeps only `indices` (B, K) of dim 1, ascending; the storage is not shrunk."""
        rows = torch.arange(len(indices), device=indices.device)[:, None]
        self.storage[:, : indices.shape[1]] = self.storage[rows, indices]
        self.length = indices.shape[1]


class HistoryBank:
    """The latent frames generated so far, detached, with their cameras and times."""

    def __init__(self, latents: Tensor, cameras: LatentCameras, capacity: int = 0) -> None:
        """latents: (B, C, M, h, w); cameras: of the M frames, in one world; capacity: see `HistoryPolicy`."""
        self.capacity, self.time = capacity, latents.shape[2]  # time: of the next frame
        self._parts = {name: Growing(value) for name, value in _frames(latents, cameras, 0).items()}

    def __len__(self) -> int:
        return self._parts["latents"].length

    @property
    def latents(self) -> Tensor:
        """Latents (B, C, M, h, w), a view."""
        return self._parts["latents"].value.transpose(1, 2)

    @property
    def cameras(self) -> LatentCameras:
        """Cameras of the M frames, views."""
        return LatentCameras(self._parts["intrinsics"].value, self._parts["c2w"].value)

    @property
    def nbytes(self) -> int:
        """Bytes of the frames: latents, cameras, camera latents and times."""
        return sum(part.value.nbytes for part in self._parts.values())

    def append(self, latents: Tensor, cameras: LatentCameras) -> None:
        """Appends latents (B, C, L, h, w) of the next frames and their cameras; above the capacity, drops an eighth."""
        for name, value in _frames(latents, cameras, self.time).items():
            self._parts[name].append(value)
        self.time += latents.shape[2]
        if self.capacity and len(self) > self.capacity:
            count = self.capacity - self.capacity // 8  # an eighth at once: choosing is expensive
            distance = view_distance(self.cameras)
            chosen = torch.stack([distinct_views(of_sample, count, len(self) - self.capacity // 4) for of_sample in distance])
            for part in self._parts.values():
                part.keep(chosen)

    def rows(self, indices: Tensor) -> "HistoryBank":
        """Returns a bank whose samples are copies of samples `indices` (K,) of this one."""
        bank = copy.copy(self)
        bank._parts = {name: part.rows(indices) for name, part in self._parts.items()}
        return bank

    def select(self, chunk_cameras: LatentCameras, policy: HistoryPolicy) -> Tensor:
        """Returns indices (B, policy.num_frames). Moments depend on the origin: camera latents are compared about the bank's last frame."""
        if not policy.camera or len(self) <= 2 + policy.recent:  # no frames to choose from
            return select_history(torch.zeros(self._parts["views"].value.shape[:2], device=self.latents.device), policy)
        if policy.similarity == "field_of_view":
            return select_history(-fields_of_view_overlap(self.cameras, chunk_cameras), policy)
        about = self.cameras.last_pose()[:, :3, 3]
        own, chunk = (move_origin(latents, about) for latents in (self._parts["views"].value, chunk_cameras.latents()))
        return select_history(camera_latent_distance(own, chunk), policy)

    def gather(self, indices: Tensor) -> Tensor:
        """Returns the latents (B, C, K, h, w) of indices (B, K)."""
        rows = torch.arange(indices.shape[0], device=indices.device)[:, None]
        return self._parts["latents"].value[rows, indices].transpose(1, 2)

    def times(self, indices: Tensor) -> Tensor:
        """Returns the global latent time ids (B, K) of indices (B, K)."""
        return self._parts["times"].value.gather(1, indices)


def _frames(latents: Tensor, cameras: LatentCameras, start: int) -> dict[str, Tensor]:
    """Returns the values of L frames from time `start` on, (B, L, ...) each. Views are camera latents in the world's frame."""
    batch, _, frames = latents.shape[:3]
    times = torch.arange(start, start + frames, device=latents.device).expand(batch, -1)
    by_frame = latents.transpose(1, 2)  # frames outermost: each is contiguous
    return {"latents": by_frame, "intrinsics": cameras.intrinsics, "c2w": cameras.c2w, "views": cameras.latents(), "times": times}


def view_distance(cameras: LatentCameras) -> Tensor:
    """Returns the distances (B, M, M) between the views of M latent frames: of their axes and of their positions in model units."""
    pose = cameras.c2w[:, :, 3].double()
    views = torch.cat([pose[..., :3, :3].flatten(2), pose[..., :3, 3]], dim=-1)
    return torch.cdist(views, views, compute_mode="donot_use_mm_for_euclid_dist")


def distinct_views(distance: Tensor, count: int, protected: int) -> Tensor:
    """Returns `count` ascending indices of frames with distances (M, M): repeatedly drops the frame nearest to an older one.

    protected: index of the first of the most recent frames, which are all kept; the first frame is always kept
    """
    size = len(distance)
    older = torch.ones(size, size, dtype=torch.bool, device=distance.device).triu(1)  # row before column
    distance = distance.masked_fill(~older, torch.inf)
    distance[:, protected:] = torch.inf
    kept = torch.ones(size, dtype=torch.bool, device=distance.device)
    for _ in range(size - count):
        dropped = distance.amin(0).argmin()
        kept[dropped] = False
        distance[dropped], distance[:, dropped] = torch.inf, torch.inf
    return kept.nonzero()[:, 0]


def move_origin(camera_latents: Tensor, origin: Tensor) -> Tensor:
    """Returns camera latents (B, M, D) with moments about `origin` (B, 3): m' = m - origin x d. Rotations would not change distances."""
    moment, direction = camera_latents.unflatten(-1, (-1, 6)).split(3, dim=-1)
    shift = torch.linalg.cross(origin[:, None, None].expand_as(direction), direction)
    return torch.cat([moment - shift, direction], dim=-1).flatten(2)
