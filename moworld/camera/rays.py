"""Plücker rays of every pixel (paper 3.2, eq. 2 to 4) and their grouping to latent frames."""

import torch
from torch import Tensor

TEMPORAL_STRIDE = 4  # video frames a latent frame, after the first, which stands alone


def pluecker_rays(intrinsics: Tensor, c2w: Tensor, height: int, width: int) -> Tensor:
    """Plücker ray of every pixel centre, moment first (eq. 2 to 4).

    intrinsics: (..., T, 4) fx, fy, cx, cy as fractions of width, height, width, height
    c2w:        (..., T, 4, 4) camera to world, OpenCV axes (x right, y down, z forward)
    returns:    (..., T, height, width, 6) moment t x d, then unit direction d, in the world frame of c2w
    Raises ValueError when the two disagree in T or in their leading dims.
    """
    intrinsics, c2w = torch.as_tensor(intrinsics), torch.as_tensor(c2w)
    if intrinsics.shape[-1:] != (4,) or c2w.shape[-2:] != (4, 4) or intrinsics.shape[:-1] != c2w.shape[:-2]:
        raise ValueError(f"intrinsics {tuple(intrinsics.shape)} and c2w {tuple(c2w.shape)} are not (..., T, 4) and (..., T, 4, 4)")
    intrinsics = intrinsics.to(c2w)
    directions = camera_directions(intrinsics, height, width)
    directions = torch.einsum("...ij,...hwj->...hwi", c2w[..., :3, :3], directions)
    x, y, z = directions.unbind(-1)
    cx, cy, cz = c2w[..., None, None, :3, 3].unbind(-1)
    moments = torch.stack([cy * z - cz * y, cz * x - cx * z, cx * y - cy * x], dim=-1)  # ten times as fast as linalg.cross on CPUs
    return torch.cat([moments, directions], dim=-1)


def camera_directions(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """d_c = K^-1 u / ||K^-1 u|| at pixel centres (eq. 3): intrinsics (..., 4) -> (..., height, width, 3)."""
    u = (torch.arange(width, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5) / width
    v = (torch.arange(height, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5) / height
    fx, fy, cx, cy = intrinsics[..., None, None, :].unbind(-1)  # (..., 1, 1) each
    x, y = torch.broadcast_tensors((u - cx) / fx, (v[:, None] - cy) / fy)
    return torch.nn.functional.normalize(torch.stack([x, y, torch.ones_like(x)], dim=-1), dim=-1)


def group_rays(rays: Tensor) -> Tensor:
    """Align rays with the codec's temporal stride of 4: the first frame four times, then groups of 4 frames on channels.

    rays:    (..., T, H, W, 6), T = 4k + 1
    returns: (..., 24, F, H, W), F = k + 1; channel = frame in group * 6 + ray coordinate
    Raises ValueError when T is not 4k + 1.
    """
    num_frames = rays.shape[-4]
    if num_frames % TEMPORAL_STRIDE != 1:
        raise ValueError(f"{num_frames} frames are not 4k + 1")
    first = rays[..., :1, :, :, :].expand(*rays.shape[:-4], TEMPORAL_STRIDE, *rays.shape[-3:])
    rays = torch.cat([first, rays[..., 1:, :, :, :]], dim=-4)  # (..., 4F, H, W, 6)
    rays = rays.unflatten(-4, (-1, TEMPORAL_STRIDE))  # (..., F, 4, H, W, 6)
    rays = rays.movedim((-4, -1), (-5, -4))  # (..., 4, 6, F, H, W)
    return rays.flatten(-5, -4)
