"""The W8A8 linear layer (paper 5.4). It replaces the linears of the DiT blocks and nothing else."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from moworld.kernels.int8_linear import int8_linear, quantize_weight
from moworld.model.weights import lasting_memory
from moworld.tensors import Entry

REPLACED = (
    *("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
    *("ffn.net.0.proj", "ffn.net.2"),
)


class Int8Linear(nn.Module):
    """weight (N, K) int8 and weight_scale (N,) float32 as buffers, bias (N,) or None; forward is `moworld.kernels.int8_linear`."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    @staticmethod
    def from_linear(linear: nn.Linear) -> "Int8Linear":
        layer = Int8Linear(linear.in_features, linear.out_features, linear.bias is not None)
        layer.weight, layer.weight_scale = quantize_weight(linear.weight.detach())
        if linear.bias is not None:
            layer.bias = linear.bias.detach().float().clone()
        return layer

    def forward(self, x: Tensor) -> Tensor:
        return int8_linear(x, self.weight, self.weight_scale, self.bias)


def join(layers: Sequence[Int8Linear]) -> None:
    """Moves the weights of layers with the same input into one memory, as `joined` expects; the layers become views of its rows."""
    if joined(layers) is not None:
        return
    rows, weight = [layer.out_features for layer in layers], layers[0].weight
    memory = lasting_memory((sum(rows), weight.shape[1]), weight.dtype, weight.device)
    for name, out in (("weight", memory), ("weight_scale", None), ("bias", None)):
        values = [getattr(layer, name) for layer in layers]
        if all(value is not None for value in values):
            for layer, view in zip(layers, torch.cat(values, out=out).split(rows), strict=True):
                setattr(layer, name, view)


def joined(layers: Sequence[Int8Linear]) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Returns weight, scale and bias of all layers as one layer, without copying; None if they are not adjacent in memory (see `join`)."""
    weight, scale = (_adjacent([getattr(layer, name) for layer in layers]) for name in ("weight", "weight_scale"))
    biases = [layer.bias for layer in layers if layer.bias is not None]
    bias = _adjacent(biases) if biases else None
    return None if weight is None or scale is None or (biases and bias is None) else (weight, scale, bias)


def join_projections(transformer: nn.Module) -> None:
    """Joins query, key and value of every INT8 self-attention, so that it quantizes its input once. Call it after loading weights."""
    for name, module in transformer.named_modules():
        if name.endswith(".attn1") and isinstance(module.to_q, Int8Linear):
            join((module.to_q, module.to_k, module.to_v))  # type: ignore[arg-type]


def _adjacent(parts: Sequence[Tensor]) -> Tensor | None:
    """Returns tensors that follow each other in one storage as one tensor; None if they do not."""
    first, rows = parts[0], 0
    storage, row_bytes = first.untyped_storage().data_ptr(), first.stride(0) * first.element_size()
    for part in parts:
        if part.untyped_storage().data_ptr() != storage or part.data_ptr() != first.data_ptr() + rows * row_bytes or part.is_meta:
            return None
        rows += len(part)
    return first.as_strided((rows, *first.shape[1:]), first.stride())


def replaceable_linears(transformer: nn.Module) -> dict[str, nn.Linear]:
    """Returns the linears of a transformer's blocks that W8A8 replaces, by module name."""
    return {
        name: module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.") and name.split(".", 2)[2] in REPLACED
    }


@torch.no_grad()
def dequantize(transformer: nn.Module) -> None:
    """Replaces INT8 layers by linears of the same values, in place, and makes all weights trainable float32."""
    for name, layer in list(transformer.named_modules()):
        if isinstance(layer, Int8Linear):
            linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            linear.weight.copy_(layer.weight.float() * layer.weight_scale[:, None])
            if layer.bias is not None:
                linear.bias.copy_(layer.bias)
            transformer.set_submodule(name, linear)
    transformer.float().requires_grad_(True)


def quantize_structure(transformer: nn.Module, stored: Mapping[str, Entry] | None = None) -> int:
    """Replaces linears by INT8 layers without values, so that an INT8 state dict can be loaded; returns how many.

    stored: that state dict's tensors; only linears with an INT8 weight in it are replaced. Older models keep the text's keys and
            values in bfloat16. None: all are replaced
    """
    linears = replaceable_linears(transformer)
    low = linears if stored is None else {key.removesuffix(".weight") for key, entry in stored.items() if entry.dtype == torch.int8}
    replaced = [name for name in linears if name in low]
    for name in replaced:
        linear = linears[name]
        transformer.set_submodule(name, Int8Linear(linear.in_features, linear.out_features, linear.bias is not None))
    return len(replaced)
