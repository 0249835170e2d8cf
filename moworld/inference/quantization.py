"""W8A8 dynamic quantization of the experts (paper 5.4), with the error of every layer; fails if no layer was replaced."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moworld.devices import ACCELERATORS
from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.inference.calibration import run_on_walk
from moworld.inference.settings import QuantizeSettings
from moworld.model.experts import Experts
from moworld.model.int8 import Int8Linear, join_projections, replaceable_linears
from moworld.model.weights import cast_parameters, load_weights, release_memory
from moworld.model.world import WorldConfig, WorldModel, open_expert, read_config

Report = dict[str, Any]
FIX = "quantize the distilled model, once"


def quantize_experts(world: WorldModel, settings: QuantizeSettings, seed: int = 0) -> Report:
    """Converts both experts of a world in place and sets `config.quantization`; returns the report of `convert`."""
    _require_full_precision("quantize", world.config)
    _, report = convert(world.experts.named_experts(), world.config, settings, seed)
    world.config = world.config.model_copy(update={"quantization": "w8a8"})
    return report


def convert(experts: Iterable[tuple[str, Any]], config: WorldConfig, settings: QuantizeSettings, seed: int = 0) -> tuple[list[Any], Report]:
    """Replaces the linears of experts' blocks in place, one expert after the other, and rounds other weights to bfloat16.

    experts: by name; an iterator may load each when the one before is converted
    returns: the experts, and {"replaced", "bytes_before", "bytes_after", "layers": [{"expert", "layer", "error"}]}; the error is
             ||y_int8 - y|| / ||y|| on the activations of a walk, at the noise levels that the expert serves (see `calibration`)
    Raises InputError if no layer was replaced, and if a layer's error exceeds the limit.
    """
    before, converted, layers = 0, [], list[dict[str, Any]]()
    for name, expert in experts:
        before += stored_bytes(expert, low=False)
        layers += _convert(name, expert, config, seed)
        converted.append(expert)
    _check(layers, settings)
    after = sum(stored_bytes(expert, low=True) for expert in converted)
    return converted, {"replaced": len(layers), "bytes_before": before, "bytes_after": after, "layers": layers}


def load_quantized(
    folder: Pathlike, settings: QuantizeSettings | None = None, device: torch.device | str = "cpu", served_on: torch.device | str = ""
) -> tuple[WorldModel, Report]:
    """Loads a full-precision model to a device and converts each expert before the next one is read: the warm-up of paper 5.4.

    served_on: where converted experts go, so that `device` holds one expert at a time; "" leaves them
    At most one expert is in its stored precision at a time. Returns the world, which equals that of `quantize_experts`, saved and loaded,
    and the report of `convert`. Raises InputError like both.
    """
    config, codec = read_config(folder), Path(folder) / "vae"
    _require_full_precision(folder, config)
    experts, report = convert(_loaded(folder, config, device, served_on or device), config, settings or QuantizeSettings())
    pair = Experts(experts[0], experts[1] if len(experts) > 1 else None, config.model.boundary)
    return WorldModel(config.model_copy(update={"quantization": "w8a8"}), pair, codec if codec.is_dir() else None, served_on or device), report


def _loaded(folder: Pathlike, config: WorldConfig, device: torch.device | str, served_on: torch.device | str) -> Iterator[tuple[str, Any]]:
    """Yields each expert in its stored precision; then gives what is left of its weights the dtype in which `open_expert` reads them."""
    served = torch.bfloat16 if torch.device(served_on).type in ACCELERATORS else torch.float32
    for name in config.experts:
        expert, weights = open_expert(folder, name, config, device)
        if all(entry.dtype == torch.bfloat16 for entry in weights.entries.values()):
            cast_parameters(expert, torch.bfloat16)
        load_weights(expert, weights, {key: key for key in weights.entries}, device)
        yield name, expert.eval()
        cast_parameters(expert.to(served_on), served)
        release_memory()


def _require_full_precision(file: object, config: WorldConfig) -> None:
    if config.quantization != "none":
        found = f"{config.quantization} weights, which would be quantized twice"
        raise InputError(file, "quantization", found, "a transformer in full precision", FIX)


def _check(layers: list[dict[str, Any]], settings: QuantizeSettings) -> None:
    if not layers:
        raise InputError("quantize", "blocks", "no linear to replace", "a transformer in full precision", FIX)
    worst, limit = max(layers, key=lambda entry: entry["error"]), settings.max_layer_error
    if worst["error"] > limit:
        field, fix = f"{worst['expert']}.{worst['layer']}", "train longer or raise quantize.max_layer_error"
        raise InputError("quantize", field, f"error {worst['error']}", f"at most {limit}", fix)


def stored_bytes(module: nn.Module, low: bool) -> int:
    """Returns the bytes of a module's state on disk, with parameters in bfloat16 if `low`."""
    parameters = {name for name, _ in module.named_parameters()}
    return sum(2 * value.numel() if low and key in parameters else value.nbytes for key, value in module.state_dict().items())


@torch.no_grad()
def _convert(expert_name: str, expert: Any, config: WorldConfig, seed: int) -> list[dict[str, Any]]:
    """Compares each linear with its INT8 copy while the expert runs on a walk, then replaces the linears one by one."""
    linears = replaceable_linears(expert)
    comparisons = {name: _Comparison(linear.weight.device) for name, linear in linears.items()}
    hooks = [linear.register_forward_hook(comparisons[name]) for name, linear in linears.items()]
    run_on_walk(expert_name, expert, config, seed)
    for hook in hooks:
        hook.remove()
    for name in comparisons:
        expert.set_submodule(name, Int8Linear.from_linear(linears.pop(name)))
        release_memory()  # small tensors that stay would keep the copies of every layer's weight between them
    for parameter in expert.parameters():  # stored in bfloat16
        parameter.copy_(parameter.bfloat16())
    join_projections(expert)
    return [{"expert": expert_name, "layer": name, "error": comparison.error} for name, comparison in comparisons.items()]


class _Comparison:
    """Forward hook of a linear: compares its outputs with those of its INT8 copy, which is freed after each call."""

    def __init__(self, device: torch.device) -> None:
        self.squares = torch.zeros(2, device=device)  # sums over the differences, and over the exact outputs

    def __call__(self, linear: nn.Module, inputs: tuple[Tensor, ...], exact: Tensor) -> None:
        assert isinstance(linear, nn.Linear)
        difference = Int8Linear.from_linear(linear)(inputs[0]) - exact
        self.squares += torch.stack([difference.float().square().sum(), exact.float().square().sum()])

    @property
    def error(self) -> float:
        """||y_int8 - y|| / ||y|| over all calls."""
        difference, exact = self.squares.clamp_min(1e-24).sqrt().tolist()
        return float(round(difference / exact, 6))
