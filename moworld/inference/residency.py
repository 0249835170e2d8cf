"""On-demand module loading (paper 5.2): keeps a world within a memory budget; frames do not depend on it, to the bit.

Opening a world uses the text encoder and the codec's encoder once. A chunk uses the high-noise expert, the low-noise expert and the codec's
decoder, one after the other. `plan_residency` decides which modules stay; `load_on_demand` returns a `WorldModel` that follows the plan.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.inference.memory import DECODER_PREFIXES, ModuleBytes, module_bytes
from moworld.model.experts import Experts
from moworld.model.int8 import join_projections
from moworld.model.rollout import Noise, denoise_few_steps
from moworld.model.settings import Sampler
from moworld.model.text import TextEncoder, TextSettings, make_text_encoder
from moworld.model.wan_vae import load_codec
from moworld.model.weights import Weights, drop_weights, load_weights, release_memory, tensors_of
from moworld.model.window import Window
from moworld.model.world import WorldModel, open_expert, read_config


@dataclass(frozen=True)
class ResidencyPlan:
    """Modules that stay in memory; each other one is loaded when it is needed and replaces the one before.

    overlap:    whether a chunk is denoised while the one before is decoded
    peak_bytes: largest sum of weights and working memory, reached while `peak_module` runs
    """

    modules: tuple[ModuleBytes, ...]
    budget_bytes: int
    resident: frozenset[str]
    overlap: bool
    peak_bytes: int
    peak_module: str

    def read_bytes(self, per: str) -> int:
        """Returns the bytes of weights that are read again for each `chunk` or each `world`."""
        return sum(module.weights for module in self.modules if module.per == per and module.name not in self.resident)

    def lines(self) -> list[str]:
        """Returns a description of the plan, one line per module, then the totals."""
        when = {m.name: "stays in memory" if m.name in self.resident else f"loaded for each {m.per}, then freed" for m in self.modules}
        return [
            *(f"{m.name}: {when[m.name]}; {_mb(m.weights)} of weights, {_mb(m.working)} of working memory" for m in self.modules),
            f"peak: {_mb(self.peak_bytes)} of {_mb(self.budget_bytes)}, in {self.peak_module}",
            f"read again: {_mb(self.read_bytes('chunk'))} per chunk, {_mb(self.read_bytes('world'))} per world",
            f"denoising runs {'beside' if self.overlap else 'after'} the decoding of the chunk before",
        ]


def plan_residency(modules: Sequence[ModuleBytes], budget_bytes: int) -> ResidencyPlan:
    """Returns the plan with the fewest bytes read per chunk, then with overlap, then with the fewest bytes read per world.

    Raises InputError with the smallest sufficient budget if not even one module at a time fits.
    """
    per_chunk, plans = {module.name for module in modules if module.per == "chunk"}, []
    for count in range(len(modules) + 1):
        for kept in combinations(modules, count):
            resident = frozenset(module.name for module in kept)
            for overlap in (False, True) if per_chunk <= resident else (False,):
                plans.append(ResidencyPlan(tuple(modules), budget_bytes, resident, overlap, *_peak(modules, resident, overlap)))
    fitting = [plan for plan in plans if plan.peak_bytes <= budget_bytes]
    if not fitting:
        least = min(plans, key=lambda plan: plan.peak_bytes)
        expected = f"at least {_mb(least.peak_bytes, up=True)} for {least.peak_module} alone"
        raise InputError("memory", "budget", _mb(budget_bytes), expected, "allow more, shorten the chunk, or use an INT8 model")
    return min(fitting, key=lambda plan: (plan.read_bytes("chunk"), not plan.overlap, plan.read_bytes("world"), plan.peak_bytes))


def _peak(modules: Sequence[ModuleBytes], resident: frozenset[str], overlap: bool) -> tuple[int, str]:
    """Returns the peak bytes and the module that runs then. With overlap the decoder runs beside every other module."""
    kept = sum(module.weights for module in modules if module.name in resident)
    decoder = sum(module.working for module in modules if module.name == "decoder") if overlap else 0
    return max(
        (kept + (0 if m.name in resident else m.weights) + m.working + (0 if m.name == "decoder" else decoder), m.name) for m in modules
    )


def _mb(size: float, up: bool = False) -> str:
    tenths = -(-size // 1e5) if up else round(size / 1e5)
    return f"{tenths / 10:,.1f} MB"


class StoredModule:
    """Loads tensors of a module from their file and drops them again; tensors that are not in the file stay.

    names: tensor of the module to tensor of the file
    """

    def __init__(self, module: nn.Module, weights: Weights, names: dict[str, str], device: torch.device | str) -> None:
        self.module, self.weights, self.names, self.device = module, weights, names, device

    def load(self) -> None:
        load_weights(self.module, self.weights, self.names, self.device)
        join_projections(self.module)

    def drop(self) -> None:
        drop_weights(self.module, self.names)


class Residency:
    """Executes a plan. Without overlap a lock makes threads take turns: no module is dropped while another thread uses it."""

    def __init__(self, plan: ResidencyPlan) -> None:
        self.plan, self.parts, self.loaded = plan, dict[str, Any](), set[str]()
        self._turn, self._lock = threading.RLock(), threading.Lock()

    @contextmanager
    def using(self, name: str = "") -> Iterator[None]:
        """Takes the turn for the duration of the block and loads a module; without a name, the block itself calls `load`."""
        with nullcontext() if self.plan.overlap else self._turn:
            if name:
                self.load(name)
            yield

    def load(self, name: str) -> None:
        """Loads a module unless it is in memory, after dropping the modules that do not stay."""
        with self._lock:
            if name in self.loaded:
                return
            for other in self.loaded - self.plan.resident:
                self.parts[other].drop()
                self.loaded.discard(other)
            release_memory()
            self.parts[name].load()
            self.loaded.add(name)
            release_memory()


class OnDemandExperts(Experts):
    """Experts that are loaded when they are selected."""

    def __init__(self, high: Any, low: Any, boundary: float, residency: Residency) -> None:
        super().__init__(high, low, boundary)
        self.residency = residency

    def at(self, level: float) -> Any:
        self.residency.load(self.name_at(level))
        return super().at(level)


class OnDemandCodec:
    """A codec whose encoder and decoder are loaded separately; the interface is that of `StreamingCodec`."""

    def __init__(self, codec: Any, residency: Residency) -> None:
        self.codec, self.residency = codec, residency

    def encode(self, video: Tensor) -> Tensor:
        with self.residency.using("encoder"):
            return self.codec.encode(video)  # type: ignore[no-any-return]

    def decode_chunk(self, latents: Tensor, cache: Any) -> tuple[Tensor, Any]:
        with self.residency.using("decoder"):
            return self.codec.decode_chunk(latents, cache)  # type: ignore[no-any-return]


class OnDemandText:
    """The text encoder of the settings, loaded while it encodes."""

    def __init__(self, settings: TextSettings, residency: Residency, device: torch.device | str) -> None:
        self.settings, self.residency, self.device = settings, residency, device
        self.encoder: TextEncoder | None = None

    def load(self) -> None:
        self.encoder = make_text_encoder(self.settings, self.device)

    def drop(self) -> None:
        self.encoder = None

    def encode(self, prompts: list[str]) -> Tensor:
        with self.residency.using("text"):
            assert self.encoder is not None
            return self.encoder.encode(prompts)


@dataclass(frozen=True)
class OnDemandDenoiser:
    """Denoises with experts that are loaded when they are selected."""

    experts: OnDemandExperts
    sampler: Sampler
    residency: Residency

    def denoise(self, window: Window, schedule: Tensor, generator: Noise) -> Tensor:
        with self.residency.using():
            return denoise_few_steps(self.experts, window, schedule, generator, sampler=self.sampler)


def load_on_demand(
    folder: Pathlike, budget_bytes: int, chunk_latents: int | None = None, device: torch.device | str = "cpu"
) -> WorldModel:
    """Returns a model that uses at most `budget_bytes` on the device; only the codec's few constants stay loaded.

    Raises InputError if the budget is too small for one module at a time, and like `WorldModel.load`.
    """
    config, codec_folder = read_config(folder), Path(folder) / "vae"
    if not codec_folder.is_dir():
        raise InputError(folder, "vae", "no codec directory", "a model saved with its codec", "use a distilled or quantized model")
    experts = {name: open_expert(folder, name, config, device) for name in config.experts}
    codec, codec_weights = load_codec(codec_folder).to(device), Weights(codec_folder)
    names = codec_parts(codec, codec_weights)
    for part in names.values():
        drop_weights(codec, part)
    held: dict[str, list[Tensor]] = {name: list(tensors_of(module).values()) for name, (module, _) in experts.items()}
    held |= {part: [tensors_of(codec)[name] for name in names[part]] for part in names}
    residency = Residency(plan_residency(module_bytes(config, held, codec_folder, chunk_latents), budget_bytes))
    text = OnDemandText(config.text, residency, device)
    residency.parts = {
        "text": text,
        **{name: StoredModule(module, weights, {key: key for key in weights.entries}, device) for name, (module, weights) in experts.items()},
        **{part: StoredModule(codec, codec_weights, names[part], device) for part in names},
    }
    low = experts["low"][0] if "low" in experts else None
    loaded = OnDemandExperts(experts["high"][0], low, config.model.boundary, residency).eval()
    denoiser = OnDemandDenoiser(loaded, config.model.sampler, residency)
    return WorldModel(config, loaded, codec_folder, device, denoiser, OnDemandCodec(codec, residency), text)


def codec_parts(codec: nn.Module, weights: Weights) -> dict[str, dict[str, str]]:
    """Returns the tensors of a codec's encoder and decoder, each with its name in the file; tensors used by both are omitted."""
    names = {stored: stored if stored in tensors_of(codec) else f"vae.{stored}" for stored in weights.entries}
    prefixes = {"encoder": ("encoder", "quant_conv", "linear_in"), "decoder": DECODER_PREFIXES}
    return {part: {names[key]: key for key in names if key.startswith(starts)} for part, starts in prefixes.items()}
