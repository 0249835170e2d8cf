"""Compositing of projected gaussians, front to back (paper 7.2: 3D Gaussian splatting of generated walks).

A gaussian i covers pixel p with alpha_i(p) = min(ALPHA_MOST, opacity_i exp(-q_i(p) / 2)), q_i(p) = a dx^2 + 2 b dx dy + c dy^2 with the conic
(a, b, c) and (dx, dy) from its mean to the pixel's centre; an alpha below ALPHA_LEAST counts as 0. The picture is
sum_i w_i colour_i, w_i = alpha_i T_i, T_i = prod_{j < i} (1 - alpha_j), with i in the order of depth. These are the constants of the package gsplat.
"""

import torch
from torch import Tensor

from moworld.kernels.dispatch import Implementation, Operator, needs

ALPHA_LEAST, ALPHA_MOST = 1 / 255, 0.999


def composite(
    means: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colours: Tensor,
    depths: Tensor,
    size_hw: tuple[int, int],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the picture (H, W, C) without background, and the light that passes all gaussians, T (H, W).

    means:     (N, 2) x, y in pixels; the centre of the first pixel is at 0.5, 0.5
    conics:    (N, 3) a, b, c of the inverse of the projected covariance, in 1 / pixels^2, positive definite
    opacities: (N,) in [0, 1]
    colours:   (N, C)
    depths:    (N,) order of compositing, the nearest first; equal depths keep their order; no gradient
    All float32 or float64 and on one device. Gradients flow through every implementation to means, conics, opacities and colours.
    Raises ValueError if shapes disagree; NoKernel if the backend cannot run.
    """
    count = len(means)
    if means.shape != (count, 2) or conics.shape != (count, 3) or opacities.shape != (count,) or depths.shape != (count,):
        shapes = ", ".join(str(tuple(each.shape)) for each in (means, conics, opacities, depths))
        raise ValueError(f"means, conics, opacities and depths have shapes {shapes}, not (N, 2), (N, 3), (N,), (N,)")
    if colours.ndim != 2 or len(colours) != count:
        raise ValueError(f"colours {tuple(colours.shape)} are not ({count}, C)")
    choice = OPERATOR.choose(means.device.type, backend, means.dtype)
    return choice.implementation(means, conics, opacities, colours, depths, size_hw)  # type: ignore[no-any-return]


OPERATOR = Operator(
    "gaussians",
    (
        Implementation("gsplat", ("cuda",), "gsplat_binding:composite", needs("gsplat"), (torch.float32,)),
        Implementation("spans", ("cpu",), "spans:composite"),
        Implementation("reference", ("cpu", "cuda", "npu"), "reference:composite"),
    ),
)
