"""Settings of the fit of a scene. Imports no heavy package."""

from typing import Annotated, Literal

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
    gaussians: Annotated[int, Field(ge=16, le=1_000_000)] = 10_000
    height: Annotated[int, Field(ge=16, le=2160)] = 96
    degree: Literal[0, 1] = 0
    start_share: Annotated[float, Field(gt=0, le=1)] = 0.7
    split_every: PositiveInt = 100
    split_until: Annotated[float, Field(ge=0, le=1)] = 0.6
    structure: Annotated[float, Field(ge=0, le=1)] = 0.2
    rate_means: Annotated[float, Field(gt=0, le=1)] = 2e-3
    rate_scales: Annotated[float, Field(gt=0, le=1)] = 1e-2
    rate_rotations: Annotated[float, Field(gt=0, le=1)] = 5e-3
    rate_opacities: Annotated[float, Field(gt=0, le=1)] = 5e-2
    rate_colours: Annotated[float, Field(gt=0, le=1)] = 1e-2
