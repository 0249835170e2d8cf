"""A world model on disk and in memory: one or two experts, the codec, and the configuration that serving needs.

The folder has Wan2.2's Diffusers layout: `transformer/` is the high-noise expert, `transformer_2/` the low-noise one, `vae/` the codec, and
`model_index.json` the configuration. Weights are safetensors; no pickle is read.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors.torch import load_file, save
from torch import Tensor

from moworld.devices import ACCELERATORS
from moworld.errors import InputError, invalid_value
from moworld.files import Pathlike, atomic_folder, atomic_write, link_or_copy, read_json, read_json_object, write_json
from moworld.model.experts import Experts
from moworld.model.flow import few_step_schedule
from moworld.model.int8 import dequantize, join_projections, quantize_structure
from moworld.model.rollout import Denoiser, ExpertsDenoiser
from moworld.model.settings import ModelSettings, TextSettings
from moworld.model.text import TextEncoder, make_text_encoder
from moworld.model.weights import WEIGHTS, Weights, cast_parameters, check_keys, gathered, load_weights, write_shards
from moworld.settings import Settings
from moworld.tensors import Entry

if TYPE_CHECKING:  # Diffusers takes seconds to import, and processes without a model read settings, too
    from moworld.model.transformer import MoWorldTransformer3DModel

EXPERT_FOLDERS = {"high": "transformer", "low": "transformer_2"}
Intrinsic = Annotated[float, Field(ge=0.01, le=100)]  # as a fraction of width or height
Placement = Callable[["MoWorldTransformer3DModel"], None]
FIX = "check model and quantization in model_index.json"


class WorldConfig(Settings):
    """The configuration of a model that a session needs besides its weights."""

    model: ModelSettings
    text: TextSettings
    height: int = Field(ge=16, le=8192)
    width: int = Field(ge=16, le=8192)
    fps: float = Field(ge=0.1, le=1000)
    experts: tuple[Literal["high", "low"], ...] = Field(default=("high", "low"), min_length=1, max_length=2)  # "high" alone: one expert for every noise level
    kind: Literal["teacher", "student"] = "teacher"
    quantization: Literal["none", "w8a8"] = "none"
    move_units: float = Field(default=1 / 54, ge=1e-6, le=1e6)
    yaw_degrees: float = Field(default=1.0, ge=1e-3, le=180)
    pitch: bool = False  # whether the training footage looked up and down: only then the player offers the keys for it
    intrinsics: tuple[Intrinsic, Intrinsic, Intrinsic, Intrinsic] = (0.532139961, 0.946026558, 0.5, 0.5)
    base: str = ""  # the published weights that training started from, and their licence
    base_licence: str = ""

    @property
    def schedule(self) -> Tensor:
        """The student's noise levels, (student_steps,)."""
        return few_step_schedule(self.model.student_steps, self.model.student_shift or self.model.shift)


class WorldModel:
    """Experts, configuration and, for models that can be served, the codec's folder.

    device:   of the weights, and of latents, text and cameras of the sessions
    denoiser: the strategy that computes chunks; None: these experts
    codec, text_encoder: instead of those that each access loads
    """

    def __init__(
        self,
        config: WorldConfig,
        experts: Experts,
        codec_folder: Path | None = None,
        device: torch.device | str = "cpu",
        denoiser: Denoiser | None = None,
        codec: Any = None,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        self.config, self.experts, self.codec_folder, self.device = config, experts, codec_folder, torch.device(device)
        self.denoiser: Denoiser = denoiser or ExpertsDenoiser(experts, config.model.sampler)
        self._codec, self._text_encoder = codec, text_encoder

    @staticmethod
    def create(config: WorldConfig, seed: int) -> "WorldModel":
        """Returns a model initialised from scratch (see `initialization`); equal seeds give equal weights."""
        from moworld.model.initialization import initialize_from_scratch
        from moworld.model.transformer import MoWorldTransformer3DModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = [MoWorldTransformer3DModel(**config.model.transformer()) for _ in config.experts]
            for expert in made:
                initialize_from_scratch(expert)
        return WorldModel(config, Experts(made[0], made[1] if len(made) > 1 else None, config.model.boundary))

    def dequantize(self) -> None:
        """Makes a quantized model one in float32 that can be trained further, in place; others stay as they are."""
        if self.config.quantization != "none":
            for _, expert in self.experts.named_experts():
                dequantize(expert)
            self.config = self.config.model_copy(update={"quantization": "none"})

    @property
    def codec(self) -> Any:
        """The codec, loaded at each access: encoders and decoders are loaded on demand (paper 5.2)."""
        from moworld.model.wan_vae import load_codec

        if self._codec is not None:
            return self._codec
        if self.codec_folder is None:
            raise InputError("model", "vae", "no codec folder", "a model saved with its codec", "use a distilled or quantized model")
        return load_codec(self.codec_folder).to(self.device)

    @property
    def text_encoder(self) -> TextEncoder:
        """The text encoder, loaded at each access."""
        return self._text_encoder or make_text_encoder(self.config.text, self.device)

    def save(self, folder: Pathlike, names: list[str] | None = None, write: bool = True, **record: Any) -> None:
        """Writes the model folder atomically, with each value of `record` (losses, reports) as NAME.json in it.

        names: the experts to write; None means all
        write: false on ranks that only take part in gathering sharded weights, one tensor at a time. All ranks must call this method
        """
        experts = {name: expert for name, expert in self.experts.named_experts() if name in (names or self.config.experts)}
        if not write:
            for expert in experts.values():
                deque(gathered(_ordered_state(expert)), maxlen=0)
            return
        with atomic_folder(folder) as target:
            for name, expert in experts.items():
                _write_expert(expert, target / EXPERT_FOLDERS[name], self.config.quantization)
            if self.codec_folder is not None:
                _copy_codec(self.codec_folder, target / "vae", small=self.config.quantization != "none")
            write_json(target / "model_index.json", {"_class_name": "WorldModel", **self.config.model_dump(mode="json")})
            for name, value in record.items():
                write_json(target / f"{name}.json", value)

    @staticmethod
    def load(
        folder: Pathlike,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        names: list[str] | None = None,
        place: Placement | None = None,
    ) -> "WorldModel":
        """Reads a model folder straight to a device. Raises InputError if it is missing or incomplete.

        dtype: of the parameters; None: see `open_expert`
        names: the experts to read; the others keep their parameters on the meta device. None means all
        place: called with each expert before its weights are read, with parameters on the meta device, e.g. `Ranks.place`, which shards it
               and moves it to the rank's device
        """
        config, codec = read_config(folder), Path(folder) / "vae"
        made = []
        for name in config.experts:
            expert, weights = open_expert(folder, name, config, device, dtype)
            if name in (names or config.experts):
                if place is not None:
                    place(expert)
                load_weights(expert, weights, {key: key for key in weights.entries}, device)
                join_projections(expert)
            made.append(expert)
        low = made[1] if len(made) > 1 else None
        return WorldModel(config, Experts(made[0], low, config.model.boundary).eval(), codec if codec.is_dir() else None, device)


def read_config(folder: Pathlike) -> WorldConfig:
    """Reads the configuration of a model folder. Raises InputError if it is missing or invalid, or an expert's weights are incomplete."""
    path = Path(folder) / "model_index.json"
    if not path.is_file():
        raise InputError(folder, path.name, "no such file", "a world model folder", "pass the folder that a training step wrote")
    values = read_json_object(path)
    if (name := values.get("_class_name", "WorldModel")) != "WorldModel":
        raise InputError(path, "_class_name", name, "WorldModel", "import published checkpoints with 'moworld model import'")
    try:
        config = WorldConfig(**{key: value for key, value in values.items() if not key.startswith("_")})
    except ValidationError as error:
        raise invalid_value(path, error, "correct the value, or use a folder that MoWorld wrote") from None
    for expert in config.experts:
        Weights(Path(folder) / EXPERT_FOLDERS[expert])  # checks the files
    return config


def open_expert(
    folder: Pathlike, name: str, config: WorldConfig, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> "tuple[MoWorldTransformer3DModel, Weights]":
    """Returns the expert `high` or `low` of a model folder with parameters on the meta device, and its stored weights.

    device: of buffers that are computed, not stored: these are ready
    dtype:  of the parameters; None: bfloat16 on accelerators if all are stored so, else float32. CPUs are faster in float32
    Raises InputError if the weights do not match the configuration.
    """
    weights, transformer = Weights(Path(folder) / EXPERT_FOLDERS[name]), expert_structure(config.model.transformer())
    with torch.device("meta"):
        if config.quantization == "w8a8" and not quantize_structure(transformer, weights.entries):
            expected = "INT8 linears in the blocks, because model_index.json says w8a8"
            raise InputError(weights.folder / weights.name, "dtypes", "no INT8 weight", expected, FIX)
    transformer.rope.to(device)
    check_keys(transformer, weights, FIX)
    parameters = dict(transformer.named_parameters())
    if dtype is None and torch.device(device).type in ACCELERATORS and all(weights.entries[key].dtype == torch.bfloat16 for key in parameters):
        dtype = torch.bfloat16
    if dtype is not None:
        cast_parameters(transformer, dtype)
    return transformer, weights


def expert_structure(sizes: Mapping[str, Any]) -> "MoWorldTransformer3DModel":
    """Returns an expert with parameters on the meta device, and buffers that are computed, not stored.

    sizes: the arguments of `MoWorldTransformer3DModel`
    """
    from moworld.model.transformer import MoWorldTransformer3DModel

    with torch.device("meta"):
        return MoWorldTransformer3DModel(**sizes)


def _ordered_state(expert: Any) -> dict[str, Tensor]:
    """Returns an expert's tensors, those of large elements first, so that each is aligned in a file."""
    return dict(sorted(expert.state_dict().items(), key=lambda item: (-item[1].itemsize, item[0])))


def _write_expert(expert: Any, folder: Path, quantization: str) -> None:
    """Writes an expert's configuration and weights.

    Parameters of a quantized expert are written as bfloat16, which is exact (see `quantize_experts`); INT8 buffers stay.
    """
    low = {name for name, _ in expert.named_parameters()} if quantization != "none" else set()
    state = _ordered_state(expert)
    dtypes = {key: torch.bfloat16 if key in low else value.dtype for key, value in state.items()}
    plan = {key: Entry(dtypes[key], tuple(value.shape), 0, value.numel() * dtypes[key].itemsize) for key, value in state.items()}
    folder.mkdir()
    write_json(folder / "config.json", {"_class_name": "MoWorldTransformer3DModel", **asdict(expert.config)})
    write_shards(folder, plan, ((key, value.to(dtypes[key])) for key, value in gathered(state)))


def _copy_codec(source: Path, target: Path, small: bool) -> None:
    """Links the codec's files; `small` stores a StreamingCodec's weights as float16, whose effect on pixels is below 8-bit rounding."""
    for path in sorted(source.glob("*")):
        link_or_copy(path, target / path.name)
    if small and read_json(source / "config.json").get("_class_name") == "StreamingCodec":
        state = {key: value.half() if value.ndim > 1 else value for key, value in load_file(source / WEIGHTS).items()}
        with atomic_write(target / WEIGHTS) as stream:  # replaces the link, not the file behind it
            stream.write(save(state))
