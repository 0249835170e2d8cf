"""The W8A8 linear layer and the places it takes in a transformer (paper 5.4): linears of the DiT blocks, and nothing else."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kernels.int8_linear import int8_linear, join_channels, quantize_weight
from moworld.model.weights import lasting_memory

PLACES = (
    *("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
    *("ffn.net.0.proj", "ffn.net.2"),
)


class Int8Linear(nn.Module):
    """weight (N, K) int8 and weight_scale (N,) float32 as buffers, bias (N,) or None; forward is `kernels.int8_linear`."""

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


def side_by_side(layers: Sequence[Int8Linear]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weight, scale and bias of one layer that gives the outputs of several side by side, for the same input, which is then quantized once.

    At first the layers become views of its rows: nothing is kept twice, and they alone keep it, so that what drops their weights drops these.
    """
    stacked = [_stacked([getattr(layer, name) for layer in layers]) for name in ("weight", "weight_scale")]
    bias = None if layers[0].bias is None else _stacked([layer.bias for layer in layers if layer.bias is not None])
    if stacked[0] is None or stacked[1] is None or (bias is None) != (layers[0].bias is None):
        rows, weight = [layer.out_features for layer in layers], layers[0].weight
        memory = lasting_memory((sum(rows), weight.shape[1]), weight.dtype, weight.device)
        whole = join_channels(*((layer.weight, layer.weight_scale, layer.bias) for layer in layers), out=memory)
        for name, values in zip(("weight", "weight_scale", "bias"), whole, strict=True):
            for layer, view in zip(layers, [None] * len(rows) if values is None else values.split(rows), strict=True):
                setattr(layer, name, view)
        return whole
    return stacked[0], stacked[1], bias


def join_projections(transformer: nn.Module) -> None:
    """Lay query, key and value of all INT8 self-attention side by side now, rather than in the first forward."""
    for name, module in transformer.named_modules():
        if name.endswith(".attn1") and isinstance(module.to_q, Int8Linear):
            side_by_side((module.to_q, module.to_k, module.to_v))  # type: ignore[arg-type]


def _stacked(parts: Sequence[Tensor]) -> Tensor | None:
    """Tensors that lie one behind the other in the same memory, as one; None where they do not."""
    first, rows = parts[0], 0
    storage, row_bytes = first.untyped_storage().data_ptr(), first.stride(0) * first.element_size()
    for part in parts:
        if part.untyped_storage().data_ptr() != storage or part.data_ptr() != first.data_ptr() + rows * row_bytes or part.is_meta:
            return None
        rows += len(part)
    return first.as_strided((rows, *first.shape[1:]), first.stride())


def replaceable_linears(transformer: nn.Module) -> dict[str, nn.Linear]:
    """The linears of a transformer's blocks that W8A8 replaces, by their module names."""
    return {
        name: module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.") and name.split(".", 2)[2] in PLACES
    }


def replace_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where the dotted `name` stands under `root`."""
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


def quantize_structure(transformer: nn.Module, dtypes: Mapping[str, torch.dtype] | None = None) -> int:
    """Swap the layers without their values, so that an INT8 state dict can be loaded; returns how many.

    dtypes: of that state dict's tensors, which say what is INT8 in it (models of before keep the text's keys and values in bfloat16); None: all is
    """
    linears = replaceable_linears(transformer)
    swapped = [name for name in linears if dtypes is None or dtypes.get(f"{name}.weight") == torch.int8]
    for name in swapped:
        replace_module(transformer, name, Int8Linear(linears[name].in_features, linears[name].out_features, linears[name].bias is not None))
    return len(swapped)
