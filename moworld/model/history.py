"""History context selection (paper 4.2): a bank of latent frames, never of keys and values, and the policy that picks what a chunk sees.

The policy is a small pure function. It is the only place that decides which latent frames enter the context.
"""

from typing import Literal

import torch
from torch import Tensor

from moworld.model.latent_cameras import LatentCameras, fields_of_view_overlap
from moworld.settings import Settings


class HistoryPolicy(Settings):
    """How many latent frames a chunk sees besides its anchor: the first one, `recent` latest ones and `camera` ones from similar views.

    similarity: `camera_latent`, the paper's: distance of camera latents; `field_of_view`: share of the chunk's views that a frame saw.
                `camera: 0` with a higher `recent` is the policy that knows no places, only times.
    """

    recent: int = 2
    camera: int = 2
    similarity: Literal["camera_latent", "field_of_view"] = "camera_latent"

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


class HistoryBank:
    """Every latent frame generated so far with its cameras. Gradients do not enter it."""

    def __init__(self, latents: Tensor, cameras: LatentCameras) -> None:
        """latents: (B, C, M, h, w); cameras of the M frames, all in one world."""
        self._latents = Growing(latents.transpose(1, 2))  # frames outermost: a frame is one stretch of memory
        self._intrinsics, self._c2w = Growing(cameras.intrinsics), Growing(cameras.c2w)
        self._views = Growing(cameras.latents())  # in the world's frame, made once a frame

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
    def nbytes(self) -> int:
        """Bytes of all that is held of the frames: latents, cameras and camera latents."""
        return sum(part.value.nbytes for part in (self._latents, self._intrinsics, self._c2w, self._views))

    def append(self, latents: Tensor, cameras: LatentCameras) -> None:
        """Latents (B, C, L, h, w) of the next frames, and their cameras."""
        self._latents.append(latents.transpose(1, 2))
        self._intrinsics.append(cameras.intrinsics)
        self._c2w.append(cameras.c2w)
        self._views.append(cameras.latents())

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


def move_origin(camera_latents: Tensor, origin: Tensor) -> Tensor:
    """Camera latents (B, M, D) with moments about `origin` (B, 3): m' = m - origin x d. Turning the axes would change no distance."""
    x, y, z = origin.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))  # origin x d = cross @ d
    shift = torch.eye(6, dtype=origin.dtype, device=origin.device).repeat(len(origin), 1, 1)
    shift[:, 3:, :3] = -cross.transpose(1, 2)  # rows are rays: (m, d) @ shift
    return (camera_latents.unflatten(-1, (-1, 6)).flatten(1, 2) @ shift).unflatten(1, (camera_latents.shape[1], -1)).flatten(2)
