"""History context selection (paper 4.2): a bank of latent frames, never of keys and values, and the policy that picks what a chunk sees.

The policy is a small pure function. It is the only place that decides which latent frames enter the context.
"""

import torch
from torch import Tensor

from moworld.model.latent_cameras import LatentCameras
from moworld.settings import Settings


class HistoryPolicy(Settings):
    """How many latent frames a chunk sees besides its anchor: the first one, `recent` latest ones and `camera` ones from similar views."""

    recent: int = 2
    camera: int = 2

    @property
    def num_frames(self) -> int:
        return 1 + self.recent + self.camera


def select_history(camera_latents: Tensor, chunk_camera_latents: Tensor, policy: HistoryPolicy) -> Tensor:
    """Which latent frames a chunk sees: the first, the most recent, and those seen from the most similar camera.

    camera_latents:       (B, M, D) of the M frames in the bank, in the order of time
    chunk_camera_latents: (B, L, D) of the frames to generate; their mean is compared with each candidate, nearest first
    returns:              (B, policy.num_frames) int64 indices into the bank, ascending. No frame is chosen twice while M allows;
                          a bank that holds fewer frames is filled up with its first frame, so the token budget is fixed.
    """
    batch, num_frames, _ = camera_latents.shape
    recent_start = max(1, num_frames - policy.recent)
    always = [0, *range(recent_start, num_frames)]
    num_similar = min(policy.camera, recent_start - 1)
    distance = torch.linalg.vector_norm(camera_latents - chunk_camera_latents.mean(1, keepdim=True), dim=-1)  # (B, M)
    candidates = distance[:, 1:recent_start]
    similar = 1 + candidates.topk(num_similar, dim=1, largest=False).indices if num_similar > 0 else distance.new_zeros((batch, 0)).long()
    fixed = torch.tensor(always, device=similar.device).expand(batch, -1)
    filling = torch.zeros((batch, policy.num_frames - len(always) - num_similar), dtype=torch.long, device=similar.device)
    return torch.cat([filling, fixed, similar], dim=1).sort(dim=1).values


class HistoryBank:
    """Every latent frame generated so far with its cameras: latents (B, C, M, h, w). Gradients do not enter it."""

    def __init__(self, latents: Tensor, cameras: LatentCameras) -> None:
        self.latents, self.cameras = latents.detach(), cameras

    def __len__(self) -> int:
        return self.latents.shape[2]

    def append(self, latents: Tensor, cameras: LatentCameras) -> None:
        self.latents = torch.cat([self.latents, latents.detach()], dim=2)
        self.cameras = self.cameras.cat(cameras)

    def select(self, chunk_cameras: LatentCameras, policy: HistoryPolicy) -> Tensor:
        """(B, policy.num_frames) indices; views are compared in the frame of the anchor, the bank's last frame."""
        pose = self.cameras.last_pose()
        return select_history(self.cameras.relative_to(pose).latents(), chunk_cameras.relative_to(pose).latents(), policy)

    def gather(self, indices: Tensor) -> Tensor:
        """indices (B, K) -> latents (B, C, K, h, w)."""
        rows = torch.arange(indices.shape[0], device=indices.device)[:, None]
        return self.latents.transpose(1, 2)[rows, indices].transpose(1, 2)
