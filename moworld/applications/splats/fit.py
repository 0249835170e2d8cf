"""Fits a scene of gaussians to frames with cameras: Adam on absolute error and SSIM, one frame a step, with simple densification.

Densification removes faint gaussians and splits those whose projected position has the largest gradient, while the number allows it
(adaptive density control of Kerbl et al. 2023, without its resets of opacity).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from moworld.applications.splats.baselines import mean_psnr
from moworld.applications.splats.footage import Footage
from moworld.applications.splats.scene import (
    C0,
    COLOURS,
    MEANS,
    OPACITY,
    ROTATIONS,
    SCALES,
    Scene,
    View,
    render,
    render_frames,
    rotations,
    view_of,
)
from moworld.applications.splats.settings import FitSettings
from moworld.applications.splats.starts import first_points

FAINT = 0.02  # opacity below which a gaussian is removed
FIRST_OPACITY, FIRST_WIDTH = 0.5, 0.5  # width: of the distance to the neighbours
SHRINK = 1.6  # of the scale along which a gaussian is split
BETAS, EPSILON = (0.9, 0.99), 1e-12
SSIM_WINDOW = 7
NEIGHBOURS = 3

Points = NDArray[np.float32]
Colours = NDArray[np.uint8]
Report = Callable[[int], object]  # receives the number of each finished step


@dataclass
class _State:
    """Parameters and Adam's moments, (N, K) each; gradient (N,) and uses (N,) since the last densification; steps of Adam."""

    rows: Tensor
    first: Tensor
    second: Tensor
    gradient: Tensor
    uses: Tensor
    steps: int = 0

    @classmethod
    def of(cls, rows: Tensor) -> "_State":
        return cls(rows, torch.zeros_like(rows), torch.zeros_like(rows), rows.new_zeros(len(rows)), rows.new_zeros(len(rows)))


def first_scene(points: Points, colours: Colours, degree: int) -> Scene:
    """Returns gaussians at points (N, 3) with colours (N, 3) uint8, as wide as the distance to their neighbours. N is at least 2."""
    from scipy.spatial import cKDTree

    distances, _ = cKDTree(points).query(points, k=min(NEIGHBOURS + 1, len(points)))
    width = np.sqrt(np.mean(np.square(distances[:, 1:]), axis=1))
    rows = torch.zeros(len(points), 23 if degree else 14)
    rows[:, MEANS] = torch.from_numpy(np.asarray(points, np.float32))
    rows[:, SCALES] = torch.from_numpy(np.log(np.clip(FIRST_WIDTH * width, 1e-4, None)).astype(np.float32))[:, None]
    rows[:, ROTATIONS.start] = 1
    rows[:, OPACITY] = float(np.log(FIRST_OPACITY / (1 - FIRST_OPACITY)))
    rows[:, COLOURS.start : COLOURS.start + 3] = torch.from_numpy((colours / 255 - 0.5) / C0)
    return Scene(rows)


def fit_footage(
    footage: Footage, settings: FitSettings, seed: int = 0, device: torch.device | str = "cpu", report: Report = lambda step: None
) -> tuple[Scene, dict[str, Any]]:
    """Returns a scene fitted to footage, in scene units and the world of its first camera, and facts about the fit.

    Facts: gaussians, start (origin of the first points), seconds, cpu_seconds, threads, and psnr_of_fit in dB over some of the frames.
    """
    begun, own = time.perf_counter(), time.process_time()
    (points, colours), origin = first_points(footage, max(2, int(settings.gaussians * settings.start_share)), seed)
    size_hw = footage.frames.shape[1:3]
    views = [view_of(w2c, lens, size_hw) for w2c, lens in zip(footage.cameras.w2c, footage.cameras.intrinsics, strict=True)]
    scene = fit(first_scene(points, colours, settings.degree), footage.frames, views, settings, seed, device, report)
    pictures = render_frames(scene, views[:: max(1, len(views) // 16)])
    return scene, {
        "gaussians": len(scene),
        "start": origin,
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - own,
        "threads": torch.get_num_threads(),
        "psnr_of_fit": mean_psnr(pictures, footage.frames[:: max(1, len(views) // 16)]),
    }


def fit(
    scene: Scene,
    frames: NDArray[np.uint8],
    views: list[View],
    settings: FitSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
    report: Report = lambda step: None,
) -> Scene:
    """Returns the scene fitted to frames (T, H, W, 3) uint8 from T views, on the CPU. The same seed gives the same scene on one machine."""
    generator = torch.Generator().manual_seed(seed)
    state, rates = _State.of(scene.rows.to(device)), _rates(settings, scene.rows.shape[1]).to(device)
    order: list[int] = []
    for step in range(settings.steps):
        order = order or torch.randperm(len(frames), generator=generator).tolist()
        index = order.pop()
        target = torch.from_numpy(frames[index]).to(device).float() / 255
        background = torch.rand(3, generator=generator).to(device)  # a hole costs, whatever its surroundings
        _step(state, views[index], target, background, settings)
        falling = rates.clone()
        falling[MEANS] *= 0.1 ** (step / settings.steps)
        _adam(state, falling)
        if (step + 1) % settings.split_every == 0 and step < settings.split_until * settings.steps:
            state = _densified(state, settings.gaussians, generator)
        report(step + 1)
    return Scene(state.rows.detach().cpu())


def _rates(settings: FitSettings, columns: int) -> Tensor:
    rates = torch.full((columns,), settings.rate_colours)
    rates[MEANS], rates[SCALES], rates[ROTATIONS], rates[OPACITY] = (
        settings.rate_means, settings.rate_scales, settings.rate_rotations, settings.rate_opacities,
    )  # fmt: skip
    rates[COLOURS.start + 3 :] = settings.rate_colours / 20
    return rates


def _step(state: _State, view: View, target: Tensor, background: Tensor, settings: FitSettings) -> None:
    """Computes the gradients of one frame into state.rows.grad, and counts them."""
    state.rows = state.rows.detach().requires_grad_()
    seen = render(state.rows, view)
    if not len(seen.seen):
        state.rows.grad = torch.zeros_like(state.rows)
        return
    seen.means.retain_grad()
    picture = seen.picture + seen.through[..., None] * background
    loss = (1 - settings.structure) * (picture - target).abs().mean()
    if settings.structure:
        loss = loss + settings.structure * (1 - ssim(picture, target))
    loss.backward()  # type: ignore[no-untyped-call]
    if seen.means.grad is not None:
        state.gradient[seen.seen] += seen.means.grad.norm(dim=1)
        state.uses[seen.seen] += 1


@torch.no_grad()
def _adam(state: _State, rates: Tensor) -> None:
    """Applies Adam (Kingma and Ba 2015, algorithm 1) with a rate for each column."""
    gradient = state.rows.grad
    assert gradient is not None
    state.steps += 1
    state.first.lerp_(gradient, 1 - BETAS[0])
    state.second.lerp_(gradient * gradient, 1 - BETAS[1])
    root = (state.second / (1 - BETAS[1] ** state.steps)).sqrt_().add_(EPSILON)
    state.rows = state.rows.detach() - rates / (1 - BETAS[0] ** state.steps) * state.first / root


@torch.no_grad()
def _densified(state: _State, most: int, generator: torch.Generator) -> _State:
    """Returns the state without faint gaussians, and with those of the largest mean gradient split in two, up to `most` gaussians."""
    rows = state.rows.detach()
    kept = torch.nonzero(rows[:, OPACITY].sigmoid() >= FAINT)[:, 0]
    kept = kept if len(kept) else torch.arange(len(rows), device=rows.device)
    score = (state.gradient / state.uses.clamp(min=1))[kept]
    count = max(0, min(most - len(kept), len(kept) // 4))
    rows, first, second = rows[kept].clone(), state.first[kept], state.second[kept]
    split = torch.topk(score, count).indices
    parts = rows[split].clone()
    axis = parts[:, SCALES].argmax(1)
    each = torch.arange(count, device=rows.device)
    offsets = torch.zeros(count, 3, device=rows.device)
    offsets[each, axis] = parts[:, SCALES].exp()[each, axis] * 0.7
    offsets = (rotations(parts[:, ROTATIONS]) @ offsets[..., None])[..., 0]
    parts[each, SCALES.start + axis] -= float(np.log(SHRINK))
    other = parts.clone()
    parts[:, MEANS] += offsets
    other[:, MEANS] -= offsets
    rows[split] = parts
    first[split], second[split] = 0, 0
    new = _State.of(torch.cat([rows, other]))
    new.first[: len(kept)], new.second[: len(kept)], new.steps = first, second, state.steps
    return new


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Returns the mean structural similarity of pictures (H, W, 3) in [0, 1], over windows of SSIM_WINDOW pixels (Wang et al. 2004)."""
    x, y = one.permute(2, 0, 1), other.permute(2, 0, 1)
    means = avg_pool2d(torch.stack([x, y, x * x, y * y, x * y]), min(SSIM_WINDOW, *one.shape[:2]), 1)
    mx, my, xx, yy, xy = means.unbind(0)
    low, high = 0.01**2, 0.03**2
    top = (2 * mx * my + low) * (2 * (xy - mx * my) + high)
    return (top / ((mx * mx + my * my + low) * (xx - mx * mx + yy - my * my + high))).mean()
