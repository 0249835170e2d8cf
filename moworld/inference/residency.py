"""On-demand module loading (paper 5.2): which module of a world is in memory when, so that one device keeps to a budget.

A world is opened by the text encoder and the codec's encoder, once; a chunk takes the high-noise expert, the low-noise one and the codec's
decoder, one after the other. `plan_residency` decides which of them stay, as a function of sizes and budget alone; `load_on_demand` gives
a world that keeps to the plan behind the interface of `WorldModel`. Loaded or kept, the numbers are the same, to the bit.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.inference.memory import ModuleBytes, module_bytes
from moworld.model.experts import Experts
from moworld.model.int8 import join_projections
from moworld.model.rollout import Noise
from moworld.model.text import TextEncoder, TextSettings, make_text_encoder
from moworld.model.wan_vae import load_codec
from moworld.model.weights import Weights, drop_weights, load_weights, release_memory, tensors_of
from moworld.model.window import Window
from moworld.model.world import WorldConfig, WorldModel, open_expert, read_config


@dataclass(frozen=True)
class ResidencyPlan:
    """Which modules stay in memory; the others are loaded when they are needed, in place of each other.

    overlap:    whether a chunk is denoised while the one before is decoded
    peak_bytes: weights and what the modules work with, at the worst moment, which is when `peak_module` works
    """

    modules: tuple[ModuleBytes, ...]
    budget_bytes: int
    resident: frozenset[str]
    overlap: bool
    peak_bytes: int
    peak_module: str

    def read_bytes(self, per: str) -> int:
        """Weights that are read again for each `chunk` or each `world`."""
        return sum(module.weights for module in self.modules if module.per == per and module.name not in self.resident)

    def lines(self) -> list[str]:
        """The plan in words, a line a module."""
        told = []
        for module in self.modules:
            when = "stays" if module.name in self.resident else f"loaded for each {module.per}, then released"
            told.append(f"{module.name}: {when}; {_mb(module.weights)} of weights, works with {_mb(module.working)}")
        told.append(f"peak {_mb(self.peak_bytes)} of {_mb(self.budget_bytes)}, when {self.peak_module} works")
        told.append(f"read again: {_mb(self.read_bytes('chunk'))} for each chunk, {_mb(self.read_bytes('world'))} for each world")
        told.append("a chunk is denoised " + ("beside" if self.overlap else "after") + " the decoding of the one before")
        return told


def plan_residency(modules: Sequence[ModuleBytes], budget_bytes: int) -> ResidencyPlan:
    """The plan that reads least again for each chunk, then overlaps denoising and decoding, then reads least for each world.

    Raises InputError, naming the smallest budget that would do, where not even one module at a time fits.
    """
    plans = []
    for count in range(len(modules) + 1):
        for kept in combinations(modules, count):
            resident = frozenset(module.name for module in kept)
            overlaps = (False, True) if all(module.name in resident for module in modules if module.per == "chunk") else (False,)
            plans += [
                ResidencyPlan(tuple(modules), budget_bytes, resident, beside, *_peak(modules, resident, beside)) for beside in overlaps
            ]
    fitting = [plan for plan in plans if plan.peak_bytes <= budget_bytes]
    if not fitting:
        least = min(plans, key=lambda plan: plan.peak_bytes)
        raise InputError(
            "memory", "budget", _mb(budget_bytes), f"at least {_mb(least.peak_bytes, up=True)} for {least.peak_module} alone",
            "allow more, shorten the chunk, or take an INT8 model",
        )  # fmt: skip
    return min(fitting, key=lambda plan: (plan.read_bytes("chunk"), not plan.overlap, plan.read_bytes("world"), plan.peak_bytes))


def _peak(modules: Sequence[ModuleBytes], resident: frozenset[str], overlap: bool) -> tuple[int, str]:
    """Bytes at the worst moment, and the module that works then. Beside any other, the decoder works too where they overlap."""
    kept = sum(module.weights for module in modules if module.name in resident)
    decoder = max((module.working for module in modules if module.name == "decoder"), default=0) if overlap else 0
    moments = [
        (kept + (0 if m.name in resident else m.weights) + m.working + (0 if m.name == "decoder" else decoder), m.name) for m in modules
    ]
    return max(moments)


def _mb(size: float, up: bool = False) -> str:
    tenths = -(-size // 1e5) if up else round(size / 1e5)
    return f"{tenths / 10:,.1f} MB"


class Stored:
    """Tensors of a module that are loaded from their file and dropped again; what the file does not hold stays as it is."""

    def __init__(self, module: nn.Module, weights: Weights, names: dict[str, str], device: torch.device | str) -> None:
        self.module, self.weights, self.names, self.device = module, weights, names, device

    def load(self) -> None:
        load_weights(self.module, self.weights, self.names, self.device)
        join_projections(self.module)

    def drop(self) -> None:
        drop_weights(self.module, self.names)


class StoredText:
    """The text encoder that the settings name."""

    def __init__(self, settings: TextSettings) -> None:
        self.settings = settings
        self.encoder: TextEncoder | None = None

    def load(self) -> None:
        self.encoder = make_text_encoder(self.settings)

    def drop(self) -> None:
        self.encoder = None


class Residency:
    """Keeps to a plan: `need` brings a module in, and whatever does not stay makes room for it.

    Where the plan does not overlap, whoever works holds `turn`: no module is dropped under another thread's hands.
    """

    def __init__(self, plan: ResidencyPlan, parts: dict[str, Any]) -> None:
        self.plan, self.parts, self.loaded = plan, parts, set[str]()
        self._turn, self._lock = threading.RLock(), threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        if self.plan.overlap:
            yield
            return
        with self._turn:
            yield

    def need(self, name: str) -> None:
        """Load the module unless it is there."""
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
    """Experts of which the one that is asked for is in memory."""

    def __init__(self, high: Any, low: Any, boundary: float, residency: Residency) -> None:
        super().__init__(high, low, boundary)
        self.residency = residency

    def at(self, level: float) -> Any:
        self.residency.need(self.name_at(level))
        return super().at(level)


class OnDemandCodec:
    """A codec whose encoder and decoder are loaded apart. Calls are those of `StreamingCodec`."""

    def __init__(self, codec: Any, residency: Residency) -> None:
        self.codec, self.residency = codec, residency

    def encode(self, video: Tensor) -> Tensor:
        with self.residency.turn():
            self.residency.need("encoder")
            return self.codec.encode(video)  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Tensor:
        return self.decode_chunk(latents, None)[0]

    def decode_chunk(self, latents: Tensor, cache: Any) -> tuple[Tensor, Any]:
        with self.residency.turn():
            self.residency.need("decoder")
            return self.codec.decode_chunk(latents, cache)  # type: ignore[no-any-return]


class OnDemandText:
    """A text encoder that is there while it encodes."""

    def __init__(self, stored: StoredText, residency: Residency) -> None:
        self.stored, self.residency = stored, residency

    def encode(self, prompts: list[str]) -> Tensor:
        with self.residency.turn():
            self.residency.need("text")
            assert self.stored.encoder is not None
            return self.stored.encoder.encode(prompts)


class OnDemandWorld(WorldModel):
    """A world within a memory budget: sessions, engine and rollout use it as any other."""

    def __init__(self, config: WorldConfig, experts: Experts, codec: OnDemandCodec, text: OnDemandText, residency: Residency) -> None:
        super().__init__(config, experts)
        self.residency, self._codec, self._text = residency, codec, text

    @property
    def codec(self) -> OnDemandCodec:
        return self._codec

    @property
    def text_encoder(self) -> OnDemandText:
        return self._text

    def denoise(self, window: Window, schedule: Tensor, generator: Noise) -> Tensor:
        with self.residency.turn():
            return super().denoise(window, schedule, generator)


def load_on_demand(
    folder: Pathlike, budget_bytes: int, chunk_latents: int | None = None, device: torch.device | str = "cpu"
) -> OnDemandWorld:
    """A model folder as a world that takes at most `budget_bytes` on the device; nothing is loaded yet but the codec's few constants.

    Raises InputError where the budget is too small for one module at a time, and as `WorldModel.load` does.
    """
    config, codec_folder = read_config(folder), Path(folder) / "vae"
    if not codec_folder.is_dir():
        raise InputError(folder, "vae", "no codec folder", "a model saved with its codec", "use a distilled or quantized model")
    experts = {name: open_expert(folder, name, config) for name in config.experts}
    codec, codec_weights = load_codec(codec_folder), Weights(codec_folder)
    names = codec_parts(codec, codec_weights)
    for part in names.values():
        drop_weights(codec, part)
    stored_text = StoredText(config.text)
    held: dict[str, list[Tensor]] = {name: list(tensors_of(module).values()) for name, (module, _) in experts.items()}
    held |= {part: [tensors_of(codec)[name] for name in names[part]] for part in names}
    plan = plan_residency(module_bytes(config, held, codec_folder, chunk_latents), budget_bytes)
    parts: dict[str, Any] = {"text": stored_text}
    parts |= {name: Stored(module, weights, {key: key for key in weights.shapes}, device) for name, (module, weights) in experts.items()}
    parts |= {part: Stored(codec, codec_weights, names[part], device) for part in names}
    residency = Residency(plan, parts)
    low = experts["low"][0] if "low" in experts else None
    made = OnDemandExperts(experts["high"][0], low, config.model.boundary, residency).eval()
    return OnDemandWorld(config, made, OnDemandCodec(codec, residency), OnDemandText(stored_text, residency), residency)


def codec_parts(codec: nn.Module, weights: Weights) -> dict[str, dict[str, str]]:
    """The tensors of a codec's encoder and of its decoder, each with its name in the file; what both use is in neither."""
    parts: dict[str, dict[str, str]] = {"encoder": {}, "decoder": {}}
    for stored in weights.shapes:
        name = stored if stored in tensors_of(codec) else f"vae.{stored}"
        if stored.startswith(("encoder", "quant_conv", "linear_in")):
            parts["encoder"][name] = stored
        elif stored.startswith(("decoder", "post_quant_conv", "linear_out", "up")):
            parts["decoder"][name] = stored
    return parts
