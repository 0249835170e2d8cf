"""Settings of the fit of a scene. Imports no heavy package."""

from typing import Literal

from pydantic import Field

from moworld.settings import PositiveInt, Settings


class FitSettings(Settings):
    """A fit of `steps` steps, one frame each, of at most `gaussians` gaussians, at pictures at most `height` pixels high.

    degree:        of the spherical harmonics: 0 is one colour from everywhere, 1 changes it linearly with direction
    start_share:   of `gaussians`, placed at first; the others come from splitting
    split_every:   steps between two rounds of removing faint gaussians and splitting those with the largest gradient
    split_until:   share of the steps after which the number stays
    structure:     weight of 1 - SSIM beside the absolute error
    rate_*:        learning rates of Adam, of positions in scene units (cameras spread by a root mean square of 2), falling tenfold
    """

    steps: PositiveInt = 1200
    gaussians: int = Field(10_000, ge=16, le=1_000_000)
    height: int = Field(96, ge=16, le=2160)
    degree: Literal[0, 1] = 0
    start_share: float = Field(0.7, gt=0, le=1)
    split_every: PositiveInt = 100
    split_until: float = Field(0.6, ge=0, le=1)
    structure: float = Field(0.2, ge=0, le=1)
    rate_means: float = Field(2e-3, gt=0, le=1)
    rate_scales: float = Field(1e-2, gt=0, le=1)
    rate_rotations: float = Field(5e-3, gt=0, le=1)
    rate_opacities: float = Field(5e-2, gt=0, le=1)
    rate_colours: float = Field(1e-2, gt=0, le=1)
