"""A world model on disk and in memory: two experts, the codec, and the configuration that serving needs.

The folder has Wan2.2's Diffusers layout: `transformer/` is the high-noise expert, `transformer_2/` the low-noise one, `vae/` the codec, and
`model_index.json` holds the configuration. Weights are safetensors; nothing else is read.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from moworld.errors import InputError
from moworld.files import Pathlike, atomic_folder, atomic_write, link_or_copy, read_json, write_json
from moworld.model.experts import Experts
from moworld.model.flow import few_step_schedule
from moworld.model.history import HistoryPolicy
from moworld.model.layout import check_weights, read_index
from moworld.model.rollout import Noise, Sampler, denoise_few_steps
from moworld.model.text import TextEncoder, TextSettings, make_text_encoder
from moworld.model.weights import WEIGHTS, Weights, check_keys, load_weights
from moworld.model.window import Window
from moworld.settings import Settings

if TYPE_CHECKING:  # Diffusers takes ten seconds to import, and settings are read by processes that hold no model
    from moworld.model.transformer import MoWorldTransformer3DModel

EXPERT_FOLDERS = {"high": "transformer", "low": "transformer_2"}
MEND = "check model and quantization in model_index.json"


class ModelSettings(Settings):
    """The sizes of one expert, the expert boundary, the flow shift and the layout of a chunk. Names are Diffusers'.

    shift:             of training and of the teacher's schedule
    student_shift:     of the student's few steps; None: the same
    sampler:           of the student, see `denoise_few_steps`
    history_attention: `joint`, as in the paper: history and chunk attend to all tokens; `block_causal`: history does not see the chunk, so that
                       its keys and values are the same in all steps of an expert and are computed once a chunk
    """

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    ffn_dim: int
    freq_dim: int = 256
    text_dim: int
    latent_channels: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    camera_gate: float = 0.0
    boundary: float = 0.9
    shift: float = 5.0
    chunk_latents: int = 3
    student_steps: int = 4
    student_shift: float | None = None
    sampler: Sampler = "stochastic"
    history_attention: Literal["joint", "block_causal"] = "joint"
    history: HistoryPolicy = HistoryPolicy()

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Tokens of a latent frame of pictures of (height, width) pixels, 8 of them to a latent each way."""
        return height // (8 * self.patch_size[1]) * (width // (8 * self.patch_size[2]))

    def transformer(self) -> dict[str, Any]:
        """The keyword arguments of `MoWorldTransformer3DModel`: noise, four mask channels and condition latents in, velocity out."""
        return {
            "patch_size": self.patch_size,
            "num_attention_heads": self.num_attention_heads,
            "attention_head_dim": self.attention_head_dim,
            "in_channels": 2 * self.latent_channels + 4,
            "out_channels": self.latent_channels,
            "text_dim": self.text_dim,
            "freq_dim": self.freq_dim,
            "ffn_dim": self.ffn_dim,
            "num_layers": self.num_layers,
            "camera_gate": self.camera_gate,
            "block_causal": self.history_attention == "block_causal",
        }


class WorldConfig(Settings):
    """What a session needs to know of a model besides its weights."""

    model: ModelSettings
    text: TextSettings
    height: int
    width: int
    fps: float
    experts: tuple[Literal["high", "low"], ...] = ("high", "low")  # "high" alone: one expert serves every noise level
    kind: Literal["teacher", "student"] = "teacher"
    quantization: Literal["none", "w8a8"] = "none"
    move_units: float = 1 / 54
    yaw_degrees: float = 1.0
    intrinsics: tuple[float, float, float, float] = (0.532139961, 0.946026558, 0.5, 0.5)

    @property
    def schedule(self) -> Tensor:
        """The student's noise levels, (student_steps,)."""
        return few_step_schedule(self.model.student_steps, self.model.student_shift or self.model.shift)


class WorldModel:
    """Experts, configuration and, for models that are served, the codec's folder."""

    def __init__(self, config: WorldConfig, experts: Experts, codec_folder: Path | None = None) -> None:
        self.config, self.experts, self.codec_folder = config, experts, codec_folder

    @staticmethod
    def create(config: WorldConfig, seed: int) -> "WorldModel":
        """A model that starts from nothing (see `initialization`), a pure function of the seed."""
        from moworld.model.initialization import initialize_from_scratch
        from moworld.model.transformer import MoWorldTransformer3DModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = [MoWorldTransformer3DModel(**config.model.transformer()) for _ in config.experts]
            for expert in made:
                initialize_from_scratch(expert)
        return WorldModel(config, Experts(made[0], made[1] if len(made) > 1 else None, config.model.boundary))

    @property
    def codec(self) -> Any:
        """The codec, loaded at each access: encoders and decoders are on demand (paper 5.2)."""
        from moworld.model.wan_vae import load_codec

        if self.codec_folder is None:
            raise InputError("model", "vae", "no codec folder", "a model saved with its codec", "use a distilled or quantized model")
        return load_codec(self.codec_folder)

    @property
    def text_encoder(self) -> TextEncoder:
        """The encoder of prompts, loaded at each access."""
        return make_text_encoder(self.config.text)

    def denoise(self, window: Window, schedule: Tensor, generator: Noise) -> Tensor:
        """The clean latents of a chunk's window (see `denoise_few_steps`): what sessions call."""
        return denoise_few_steps(self.experts, window, schedule, generator, sampler=self.config.model.sampler)

    def save(self, folder: Pathlike, names: list[str] | None = None, write: bool = True, **record: Any) -> None:
        """Write the model folder atomically; `record` (losses, reports) goes beside it as NAME.json.

        names: the experts to write; None writes all of them
        write: false on ranks that only help to gather sharded weights: all ranks must call it
        """
        stored = _whole if self.config.quantization == "none" else _in_bfloat16
        states = {name: stored(expert) for name, expert in self.experts.named_experts() if name in (names or self.config.experts)}
        if not write:
            return
        with atomic_folder(folder) as target:
            for name, state in states.items():
                expert = dict(self.experts.named_experts())[name]
                expert_folder = target / EXPERT_FOLDERS[name]
                expert_folder.mkdir()
                expert.save_config(expert_folder)
                save_file(state, expert_folder / WEIGHTS)
            if self.codec_folder is not None:
                _copy_codec(self.codec_folder, target / "vae", small=self.config.quantization != "none")
            write_json(target / "model_index.json", {"_class_name": "WorldModel", **self.config.model_dump(mode="json")})
            for name, value in record.items():
                write_json(target / f"{name}.json", value)

    @staticmethod
    def load(folder: Pathlike) -> "WorldModel":
        """Read a model folder. Raises InputError when it is missing or incomplete."""
        config, codec = read_config(folder), Path(folder) / "vae"
        made = []
        for name in config.experts:
            expert, weights = open_expert(folder, name, config)
            load_weights(expert, weights, {key: key for key in weights.shapes})
            made.append(expert)
        low = made[1] if len(made) > 1 else None
        return WorldModel(config, Experts(made[0], low, config.model.boundary).eval(), codec if codec.is_dir() else None)


def read_config(folder: Pathlike) -> WorldConfig:
    """The configuration of a model folder. Raises InputError where there is none, or weights of its experts are missing or not whole."""
    root = Path(folder)
    if not (root / "model_index.json").is_file():
        raise InputError(root, "model_index.json", "no such file", "a world model folder", "pass the folder that a training step wrote")
    config = read_index(root / "model_index.json", WorldConfig, "WorldModel")
    check_weights((root / EXPERT_FOLDERS[name] for name in config.experts), WEIGHTS)
    return config


def open_expert(folder: Pathlike, name: str, config: WorldConfig) -> "tuple[MoWorldTransformer3DModel, Weights]":
    """The expert `high` or `low` of a model folder without its weights, and these where they are stored.

    Its parameters are on the meta device; what is computed and not stored is there.
    Raises InputError where the weights are not those of the configuration.
    """
    from moworld.model.rope import GlobalRotaryPosEmbed
    from moworld.model.transformer import MoWorldTransformer3DModel

    weights = Weights(Path(folder) / EXPERT_FOLDERS[name])
    with torch.device("meta"):
        transformer = MoWorldTransformer3DModel(**config.model.transformer())
        if config.quantization == "w8a8":
            from moworld.model.int8 import quantize_structure

            if not quantize_structure(transformer, weights.dtypes):
                found, wanted = "no INT8 weight", "INT8 linears in the blocks, for model_index.json says w8a8"
                raise InputError(weights.folder / weights.name, "dtypes", found, wanted, MEND)
    sizes = transformer.config
    transformer.rope = GlobalRotaryPosEmbed(sizes.attention_head_dim, tuple(sizes.patch_size), sizes.rope_max_seq_len)
    check_keys(transformer, weights, MEND)
    return transformer, weights


def _whole(expert: Any) -> dict[str, Tensor]:
    """An expert's state; what is sharded over ranks is gathered, one tensor at a time."""
    state = {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in expert.state_dict().items()}
    return {key: value.cpu().contiguous() for key, value in state.items()}


def _in_bfloat16(expert: Any) -> dict[str, Tensor]:
    """The state of a quantized expert, whose parameters hold bfloat16's values (see `quantize_experts`); INT8 layers are buffers and stay."""
    parameters = {name for name, _ in expert.named_parameters()}
    return {key: value.bfloat16() if key in parameters else value for key, value in _whole(expert).items()}


def _copy_codec(source: Path, target: Path, small: bool) -> None:
    """The codec's files; `small` stores the own codec's weights in float16, which changes pixels far less than their rounding to bytes."""
    for path in sorted(source.glob("*")):
        link_or_copy(path, target / path.name)
    if small and read_json(source / "config.json").get("_class_name") == "StreamingCodec":
        state = {key: value.half() if value.ndim > 1 else value for key, value in load_file(source / WEIGHTS).items()}
        with atomic_write(target / WEIGHTS) as stream:  # in the place of the link, not through it
            stream.write(save(state))
