"""W8A8 dynamic quantization of the experts (paper 5.4), with an error report per layer. It fails when it replaced nothing."""

from typing import Any

import torch
from torch import Tensor, nn

from moworld.errors import InputError
from moworld.model.int8 import Int8Linear, replace_module, replaceable_linears
from moworld.model.world import WorldModel
from moworld.settings import Settings


class QuantizeSettings(Settings):
    """`max_layer_error`: the relative error of a layer's output above which the conversion is refused."""

    max_layer_error: float = 0.1


def quantize_experts(world: WorldModel, settings: QuantizeSettings, seed: int = 0) -> dict[str, Any]:
    """Replace the linears of both experts' blocks in place, round what stays to bfloat16, and set `config.quantization`.

    returns: {"replaced", "bytes_before", "bytes_after", "layers": [{"expert", "layer", "error"}]}; the error is
             ||y_int8 - y|| / ||y|| on activations of one forward pass on noise
    Raises InputError when nothing was replaced or a layer's error is above the limit.
    """
    if world.config.quantization != "none":
        found, mend = f"a model that is {world.config.quantization} already", "quantize the distilled model, once"
        raise InputError("quantize", "quantization", found, "a model in full precision", mend)
    before, layers = _stored_bytes(world, low=False), []
    for expert_name, expert in world.experts.named_experts():
        inputs = _layer_inputs(expert, world, seed)
        for name, linear in replaceable_linears(expert).items():
            layer = Int8Linear.from_linear(linear)
            with torch.no_grad():
                exact = linear(inputs[name])
                error = (torch.linalg.vector_norm(layer(inputs[name]) - exact) / torch.linalg.vector_norm(exact).clamp_min(1e-12)).item()
            replace_module(expert, name, layer)
            layers.append({"expert": expert_name, "layer": name, "error": round(error, 6)})
        for parameter in expert.parameters():  # so it is stored, at half the size
            parameter.data.copy_(parameter.data.bfloat16())
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
    world.config = world.config.model_copy(update={"quantization": "w8a8"})
    return {"replaced": len(layers), "bytes_before": before, "bytes_after": _stored_bytes(world, low=True), "layers": layers}


def _stored_bytes(world: WorldModel, low: bool) -> int:
    parameters = dict(world.experts.named_parameters())
    of = {key: 2 * value.numel() if low and key in parameters else value.nbytes for key, value in world.experts.state_dict().items()}
    return sum(of.values())


@torch.no_grad()
def _layer_inputs(expert: nn.Module, world: WorldModel, seed: int) -> dict[str, Tensor]:
    """The input of every replaceable layer in one forward pass on noise."""
    captured: dict[str, Tensor] = {}
    hooks = [
        linear.register_forward_pre_hook(lambda _, inputs, name=name: captured.__setitem__(name, inputs[0].detach().clone()))
        for name, linear in replaceable_linears(expert).items()
    ]
    config, generator = world.config, torch.Generator().manual_seed(seed)
    frames, height, width = config.model.chunk_latents + 1, config.height, config.width
    expert(
        torch.randn(1, 2 * config.model.latent_channels + 4, frames, height // 8, width // 8, generator=generator),
        torch.full((1, frames), 800.0),
        torch.randn(1, config.text.length, config.model.text_dim, generator=generator),
        torch.randn(1, 24, frames, height, width, generator=generator),
    )
    for hook in hooks:
        hook.remove()
    return captured
