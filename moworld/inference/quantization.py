"""W8A8 dynamic quantization of the experts (paper 5.4), with an error report per layer. It fails when it replaced nothing."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.model.experts import Experts
from moworld.model.int8 import Int8Linear, replace_module, replaceable_linears
from moworld.model.weights import load_weights, release_memory
from moworld.model.world import WorldConfig, WorldModel, open_expert, read_config
from moworld.settings import Settings


class QuantizeSettings(Settings):
    """`max_layer_error`: the relative error of a layer's output above which the conversion is refused."""

    max_layer_error: float = 0.1


def quantize_experts(world: WorldModel, settings: QuantizeSettings, seed: int = 0) -> dict[str, Any]:
    """Replace the linears of both experts' blocks in place, round what stays to bfloat16, and set `config.quantization`.

    returns: {"replaced", "bytes_before", "bytes_after", "layers": [{"expert", "layer", "error"}]}; the error is
             ||y_int8 - y|| / ||y|| on activations of one forward pass on noise
    Raises InputError when the model is quantized already, nothing was replaced or a layer's error is above the limit.
    """
    _once("quantize", world.config)
    before, layers = _stored_bytes(world, low=False), []
    for name, expert in world.experts.named_experts():
        layers += _convert(name, expert, world.config, seed)
    _judge(layers, settings)
    world.config = world.config.model_copy(update={"quantization": "w8a8"})
    return {"replaced": len(layers), "bytes_before": before, "bytes_after": _stored_bytes(world, low=True), "layers": layers}


def load_quantized(folder: Pathlike, settings: QuantizeSettings | None = None) -> WorldModel:
    """Load a model in full precision and convert it expert by expert, before the next one is read: the warm-up of paper 5.4.

    At most one expert is in its stored precision, beside what is INT8 already. The result is that of `quantize_experts`, saved and loaded.
    Raises InputError as `quantize_experts` does.
    """
    config, codec, made, layers = read_config(folder), Path(folder) / "vae", [], list[dict[str, Any]]()
    _once(folder, config)
    for name in config.experts:
        expert, weights = open_expert(folder, name, config)
        if set(weights.dtypes.values()) == {torch.bfloat16}:
            expert.bfloat16()
        load_weights(expert, weights, {key: key for key in weights.shapes})
        layers += _convert(name, expert, config, seed=0)
        made.append(expert.float().eval())
        release_memory()
    _judge(layers, settings or QuantizeSettings())
    experts = Experts(made[0], made[1] if len(made) > 1 else None, config.model.boundary)
    return WorldModel(config.model_copy(update={"quantization": "w8a8"}), experts, codec if codec.is_dir() else None)


def _once(file: object, config: WorldConfig) -> None:
    if config.quantization != "none":
        found = f"{config.quantization} weights, which would be quantized twice"
        raise InputError(file, "quantization", found, "a transformer in full precision", "quantize the distilled model, once")


def _judge(layers: list[dict[str, Any]], settings: QuantizeSettings) -> None:
    if not layers:
        raise InputError(
            "quantize", "blocks", "no linear to replace", "a transformer in full precision", "quantize the distilled model, once"
        )
    worst = max(layers, key=lambda entry: entry["error"])
    if worst["error"] > settings.max_layer_error:
        wanted = f"at most {settings.max_layer_error}"
        raise InputError(
            "quantize",
            f"{worst['expert']}.{worst['layer']}",
            f"error {worst['error']}",
            wanted,
            "train longer or raise quantize.max_layer_error",
        )


def _stored_bytes(world: WorldModel, low: bool) -> int:
    parameters = dict(world.experts.named_parameters())
    of = {key: 2 * value.numel() if low and key in parameters else value.nbytes for key, value in world.experts.state_dict().items()}
    return sum(of.values())


@torch.no_grad()
def _convert(expert_name: str, expert: Any, config: WorldConfig, seed: int) -> list[dict[str, Any]]:
    """One forward pass on noise, in which each replaceable layer gives way to its INT8 copy once it was compared; its weights are freed."""
    errors, names = dict[str, float](), list(replaceable_linears(expert))

    def give_way(name: str, linear: nn.Linear, inputs: tuple[Tensor, ...], exact: Tensor) -> None:
        layer = Int8Linear.from_linear(linear)
        difference = torch.linalg.vector_norm((layer(inputs[0]) - exact).float())
        errors[name] = round((difference / torch.linalg.vector_norm(exact.float()).clamp_min(1e-12)).item(), 6)
        replace_module(expert, name, layer)
        linear.register_parameter("weight", None)  # freed now, not when the layer is collected

    for name in names:
        expert.get_submodule(name).register_forward_hook(partial(give_way, name))
    generator, low = torch.Generator().manual_seed(seed), expert.patch_embedding.weight.dtype
    frames, height, width = config.model.chunk_latents + 1, config.height, config.width
    expert(
        torch.randn(1, 2 * config.model.latent_channels + 4, frames, height // 8, width // 8, generator=generator).to(low),
        torch.full((1, frames), 800.0),
        torch.randn(1, config.text.length, config.model.text_dim, generator=generator).to(low),
        torch.randn(1, 24, frames, height, width, generator=generator).to(low),
    )
    for parameter in expert.parameters():  # so it is stored, at half the size
        parameter.copy_(parameter.bfloat16())
    return [{"expert": expert_name, "layer": name, "error": errors[name]} for name in names]
