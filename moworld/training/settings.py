"""Settings of training: optimizer, ranks and precision, one stage of the curriculum. Imports no torch."""

from typing import Literal

from moworld.model.latent_grid import CODEC_GRID, NumFrames
from moworld.settings import Decay, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Settings, Share


class OptimizerSettings(Settings):
    """AdamW: linear warm-up, cosine decay to `final_lr` times `lr`; `average` is the decay of the weights' moving average (0: none)."""

    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 1e-2
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    clip: PositiveFloat = 1.0
    warmup: NonNegativeInt = 0
    final_lr: NonNegativeFloat = 1.0
    average: Decay = 0.0


class ParallelSettings(Settings):
    """Ranks that share a sample: `ulysses` (over heads) times `ring` (over tokens). Samples are shared out over what remains.

    dtype:                  of weights and activations in forward and backward; the weights that are updated, their gradients' sum and the
                            optimizer state stay float32
    checkpoint_activations: keep only a block's input and recompute the block in the backward pass
    """

    ulysses: PositiveInt = 1
    ring: PositiveInt = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpoint_activations: bool = False


class Stage(Settings):
    """One stage: clip length in video frames (4k + 1), global batch and number of optimizer steps of each expert.

    checkpoint_every: steps between two checkpoints; 0 writes none
    """

    frames: NumFrames
    batch: PositiveInt
    steps: NonNegativeInt
    optimizer: OptimizerSettings
    camera_dropout: Share = 0.1
    text_dropout: Share = 0.1
    checkpoint_every: NonNegativeInt = 0
    parallel: ParallelSettings = ParallelSettings()

    @property
    def num_latents(self) -> int:
        return CODEC_GRID.num_latents(self.frames)
