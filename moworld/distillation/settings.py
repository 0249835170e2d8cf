"""Settings of the distillation: autoregressive training, starts, monitor, distribution matching. Imports no torch."""

from typing import Literal

from pydantic import Field

from moworld.settings import Decay, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Settings, Share
from moworld.training.settings import OptimizerSettings, ParallelSettings, Stage


class AutoregressiveSettings(Stage):
    """`frames`: length of the clips that chunks are drawn from; `batch` counts samples over all ranks.

    anchor_weight: lambda of eq. 12
    exposure:      chunks that a step trains on besides one under ground-truth history, each after one more chunk of the model's own; 0 is the
                   paper's choice
    """

    anchor_weight: NonNegativeFloat = 1.0
    exposure: NonNegativeInt = 0


class GuidanceSettings(Settings):
    """Guided start: `steps` steps of each expert before the distillation, on the same ranks.

    camera:    guidance weight of the camera condition; 1 is none
    rescale:   share of the added standard deviation that is removed again (Lin et al. 2024, phi): a higher weight then follows cameras
               better without more contrast
    substeps:  guided Euler steps of the teacher that one student step learns; more than one needs `sampler: euler`
    batch:     over all ranks; 0: the distillation's
    frames:    length of the clips that chunks are drawn from; 0: as long as the distillation's rollouts
    optimizer: None takes that of the distillation's student
    """

    steps: NonNegativeInt
    camera: NonNegativeFloat = 1.5
    rescale: Share = 0.0
    substeps: PositiveInt = 1
    batch: NonNegativeInt = 0
    frames: NonNegativeInt = 0
    optimizer: OptimizerSettings | None = None


class ConsistencySettings(Settings):
    """Consistency start: `steps` steps of each expert before the distillation, with its batch and ranks.

    frames:         length of the clips that chunks are drawn from; 0: as long as the distillation's rollouts
    optimizer:      None takes that of the distillation's student
    target_average: decay of the moving average of the weights that produces the targets
    """

    steps: NonNegativeInt
    frames: NonNegativeInt = 0
    optimizer: OptimizerSettings | None = None
    target_average: Decay = 0.95


class MonitorSettings(Settings):
    """Bounds for rollouts relative to the recorded latents of the same clips, each a mean over `window` student steps.

    least_motion:            difference of neighbouring latent frames, as a share of the recorded one's
    contrast, chunk_drift:   lowest and highest standard deviation of the latents: of the rollout as a share of the recorded one's, and of
                             the last chunk as a share of the first one's
    """

    window: PositiveInt = 8
    least_motion: NonNegativeFloat = 0.15
    contrast: tuple[NonNegativeFloat, PositiveFloat] = (0.4, 2.0)
    chunk_drift: tuple[NonNegativeFloat, PositiveFloat] = (0.4, 2.5)


class DistillSettings(Settings):
    """`steps` student steps, each after `fake_steps` fake steps; rollouts of `chunks` chunks; score levels as in Self-Forcing.

    batch:       over all ranks
    teacher:     `bidirectional`, the paper's: the pretrained model sees the whole rollout from its first frame. `autoregressive`: the student
                 before distillation, at any noise level, sees each chunk under the history of the rollout
    offload_teacher: its weights stay in the hosts' memory and come to a device block by block: slower, and less memory per device
    guidance_start, consistency: training before the distillation, in this order; None, the paper's choice, omits it
    """

    chunks: int = Field(ge=1, le=1000)
    batch: PositiveInt
    steps: NonNegativeInt
    fake_steps: NonNegativeInt = 5
    teacher: Literal["bidirectional", "autoregressive"] = "bidirectional"
    offload_teacher: bool = False
    student: OptimizerSettings
    fake: OptimizerSettings
    guidance: NonNegativeFloat = 1.0
    lowest_level: Share = 0.02
    highest_level: Share = 0.98
    monitor: MonitorSettings = MonitorSettings()
    guidance_start: GuidanceSettings | None = None
    consistency: ConsistencySettings | None = None
    checkpoint_every: NonNegativeInt = 0
    parallel: ParallelSettings = ParallelSettings()
