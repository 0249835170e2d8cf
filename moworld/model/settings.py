"""Settings of the model: sizes, history policy, codec, text encoder, and the device that plans compute with. Imports no torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from moworld.model.latent_grid import LatentGrid
from moworld.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Settings, Share

Patch = Annotated[int, Field(ge=1, le=16)]
Sampler = Literal["stochastic", "euler"]  # of the student's few steps, see `moworld.model.rollout.denoise_few_steps`


class HistoryPolicy(Settings):
    """History frames of a chunk besides its anchor: the first, the `recent` latest before the anchor, and `camera` frames from similar views (paper 4.2).

    similarity: `camera_latent`, the paper's: distance of camera latents; `field_of_view`: share of the chunk's view that a frame covers.
                `camera: 0` with a higher `recent` selects by time only.
    capacity:   maximum number of latent frames in the bank, 0 for no limit. Of similar views the oldest is kept: it has drifted least.
    """

    recent: int = Field(default=2, ge=0, le=4096)
    camera: int = Field(default=2, ge=0, le=4096)
    similarity: Literal["camera_latent", "field_of_view"] = "camera_latent"
    capacity: NonNegativeInt = 512

    @model_validator(mode="after")
    def _large_enough(self) -> Self:
        if 0 < self.capacity < 8 * self.num_frames:
            raise ValueError(f"capacity {self.capacity} is too small: at least {8 * self.num_frames}, or 0 for no limit")
        return self

    @property
    def num_frames(self) -> int:
        return 1 + self.recent + self.camera


class ModelSettings(Settings):
    """The sizes of one expert, the expert boundary, the flow shift and the layout of a chunk. Names are Diffusers'.

    shift:             of training and of the teacher's schedule
    student_shift:     of the student's few steps; None: the same
    sampler:           of the student, see `denoise_few_steps`
    least_spread:      of the latents over the last chunks of a rollout, which otherwise fade over hundreds of frames (see `KeptSpread`);
                       0, the paper's choice, changes nothing
    history_attention: `joint`, the paper's: history and chunk attend to all tokens; `block_causal`: history does not attend to the
                       chunk, so its keys and values are equal in all steps of an expert and are computed once per chunk
    """

    num_layers: int = Field(ge=1, le=1024)
    num_attention_heads: int = Field(ge=1, le=1024)
    attention_head_dim: int = Field(ge=6, le=1024, multiple_of=2)  # the positions of three axes, each in pairs
    ffn_dim: int = Field(ge=1, le=1_000_000)
    freq_dim: int = Field(default=256, ge=2, le=65536, multiple_of=2)  # cosines and sines
    text_dim: int = Field(ge=1, le=65536)
    latent_channels: int = Field(default=16, ge=1, le=1024)
    patch_size: tuple[Patch, Patch, Patch] = (1, 2, 2)
    camera_gate: float = Field(default=0.0, ge=-100, le=100)
    boundary: Share = 0.9
    shift: PositiveFloat = 5.0
    chunk_latents: int = Field(default=3, ge=1, le=64)
    student_steps: int = Field(default=4, ge=1, le=100)
    student_shift: PositiveFloat | None = None
    sampler: Sampler = "stochastic"
    least_spread: NonNegativeFloat = 0.0
    history_attention: Literal["joint", "block_causal"] = "joint"
    history: HistoryPolicy = HistoryPolicy()

    @property
    def grid(self) -> LatentGrid:
        return LatentGrid(self.patch_size)

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Returns the tokens per latent frame for a picture of (height, width) pixels. Raises InputError if tokens do not divide both."""
        return self.grid.tokens_per_frame(height, width)

    @property
    def chunk_frames(self) -> int:
        """Video frames of a chunk."""
        return self.grid.frames_after_first(self.chunk_latents)

    @property
    def rays_per_token(self) -> int:
        """Numbers in a token's part of the ray maps: 24 channels of every pixel of the patch (eq. 2 to 4)."""
        return 24 * self.grid.pixels_per_token

    def transformer(self) -> dict[str, Any]:
        """Returns the keyword arguments of `MoWorldTransformer3DModel`: noise, four mask channels and condition latents in, velocity out."""
        sizes = ("patch_size", "num_attention_heads", "attention_head_dim", "text_dim", "freq_dim", "ffn_dim", "num_layers", "camera_gate")
        return {name: getattr(self, name) for name in sizes} | {
            "in_channels": 2 * self.latent_channels + 4,
            "out_channels": self.latent_channels,
            "block_causal": self.history_attention == "block_causal",
        }


class BaseSettings(Settings):
    """Published weights that training starts from: a directory or URI in Wan2.2's layout, Diffusers', or the published MoWorld base's.

    low:     where the low-noise expert is, if not in `source`, as for the published MoWorld base
    licence: of the weights, for the gates
    sha256:  `moworld.model.checkpoints.base.base_hash` that the weights must have; "" for any
    """

    source: str
    low: str = ""
    licence: str = "not stated"
    sha256: str = ""


class CodecSettings(Settings):
    """Sizes of the codec and its training: `steps` of `batch` windows of `groups` latent frames.

    warp: whether the decoder adds a picture that four flows move (`moworld.model.codec.warped`): better, and slower to train.
          Use `lr` 6e-4 with it: at 1e-3 training diverged.
    """

    latent_channels: int = Field(default=16, ge=1, le=1024)
    hidden: int = Field(default=48, ge=1, le=65536)
    blocks: int = Field(default=2, ge=0, le=1024)
    warp: bool = False
    steps: NonNegativeInt = 300
    batch: PositiveInt = 8
    groups: int = Field(default=3, ge=1, le=1024)
    lr: PositiveFloat = 2e-3
    latent_noise: NonNegativeFloat = 0.05
    pca_patches: int = Field(default=20000, ge=1, le=100_000_000)


class TextSettings(Settings):
    """Text encoder, the number of tokens a prompt is cut or padded to, and for UMT5 the directory with weights and tokenizer."""

    kind: Literal["minilm", "umt5"]
    length: int = Field(ge=1, le=65536)
    path: str = ""


class Device(Settings):
    """One accelerator and its links. `utilization` is the share of the peak that training reaches, an assumption until measured."""

    memory_bytes: PositiveFloat
    flops: PositiveFloat
    utilization: float = Field(gt=0, le=1)
    link_bytes_per_second: NonNegativeFloat = 0.0
    network_bytes_per_second: NonNegativeFloat = 0.0
    price_per_hour: NonNegativeFloat = 0.0
    runtime_bytes: NonNegativeFloat = 0.0
