"""`moworld bench gaussians`: compositing of gaussians beside the torch reference, forward and with gradients."""

import math

import torch
from torch import Tensor

from moworld.kernels.gaussians import OPERATOR, composite
from moworld_ops.benchmarks.measure import Row, side_by_side

WIDTH = 1.0  # pixels: mean standard deviation


def bench_gaussians(count: int, size_hw: tuple[int, int], turns: int = 3) -> list[Row]:
    """Returns rows of `count` random gaussians in a picture, for the implementation that this machine's CPU gets.

    The reference needs memory for every gaussian at every pixel: 10,000 gaussians at 96x160 take it gigabytes and minutes.
    """
    inputs = random_gaussians(count, size_hw)
    name = OPERATOR.choose("cpu").name

    def forward(backend: str) -> None:
        with torch.no_grad():
            composite(*inputs, size_hw, backend=backend)

    def both(backend: str) -> None:
        means, conics, opacities, colours = (each.clone().requires_grad_() for each in inputs[:4])
        picture, _ = composite(means, conics, opacities, colours, inputs[4], size_hw, backend=backend)
        picture.sum().backward()

    case = f"{count} gaussians at {size_hw[0]}x{size_hw[1]}, {name}"
    return [
        side_by_side(f"{case}, {what}", lambda run=run: run(name), lambda run=run: run("reference"), "torch reference", turns)  # type: ignore[misc]
        for what, run in (("forward", forward), ("forward and backward", both))
    ]


def random_gaussians(count: int, size_hw: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns means, conics, opacities, colours and depths of gaussians spread over a picture, WIDTH wide."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(count, 2, generator=generator) * torch.tensor([size_hw[1], size_hw[0]])
    angle, widths = math.pi * torch.rand(count, generator=generator), WIDTH * (0.5 + torch.rand(count, 2, generator=generator))
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).reshape(-1, 2, 2)
    inverse = turn @ torch.diag_embed(widths**-2) @ turn.mT
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], dim=1)
    opacities, colours, depths = (torch.rand(count, *more, generator=generator) for more in ((), (3,), ()))
    return means, conics, opacities, colours, depths
