"""Settings of tasks, planners and the head. Imports no heavy package."""

from typing import Annotated, Literal

from pydantic import Field

from moworld.settings import PositiveFloat, PositiveInt, Settings, Share


class TaskSettings(Settings):
    """A task: from a start to the place that a planned walk reaches after `ahead` frames, at least `least_units` map units away.

    success_units, success_degrees: distance along the floor and angle at which the goal is reached
    max_chunks:                     chunks after which an agent that did not stop is stopped
    """

    ahead: Annotated[int, Field(ge=4, le=1000)] = 24
    least_units: PositiveFloat = 96.0
    success_units: PositiveFloat = 64.0
    success_degrees: Annotated[float, Field(gt=0, le=180)] = 30.0
    max_chunks: Annotated[int, Field(ge=1, le=100)] = 6


class PlannerSettings(Settings):
    """How plans are searched. `tree`: every sequence of at most `depth` chunks, each of them one of `actions` (of a chunk of 12 frames).

    `cem`: the cross-entropy method over frames of turning and walking in each chunk: `rounds` rounds of `samples` sequences, whose
    `elite` share decides where the next round samples.
    """

    kind: Literal["tree", "cem"] = "tree"
    depth: Annotated[int, Field(ge=1, le=4)] = 1
    actions: Annotated[tuple[str, ...], Field(min_length=1, max_length=16)] = (
        "w*12", "wl*12", "wj*12", "l*12", "j*12", "a*12", "d*12", "w*6", "l*6", "j*6",
    )  # fmt: skip
    rounds: Annotated[int, Field(ge=1, le=20)] = 3
    samples: Annotated[int, Field(ge=4, le=1000)] = 12
    elite: Annotated[float, Field(gt=0, lt=1)] = 0.25


class HeadSettings(Settings):
    """The head and its training: `steps` steps of `batch` pairs of frames at most `reach` frames apart.

    levels, walks, frames: training levels, walks on each, frames of a walk (4 k + 1)
    through_codec:         share of the pairs whose first picture went through the model's codec
    """

    width: Annotated[int, Field(ge=4, le=256)] = 32
    steps: PositiveInt = 2000
    batch: Annotated[int, Field(ge=2, le=4096)] = 32
    rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    reach: Annotated[int, Field(ge=1, le=1000)] = 48
    levels: Annotated[int, Field(ge=1, le=60)] = 60
    walks: Annotated[int, Field(ge=1, le=100)] = 2
    frames: Annotated[int, Field(ge=5, le=100_001)] = 145
    through_codec: Share = 0.5
    save_every: PositiveInt = 250
