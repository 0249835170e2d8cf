"""The W8A8 linear layer and the places it takes in a transformer (paper 5.4): linears of the DiT blocks, and nothing else."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels.int8_linear import int8_linear, join_channels, quantize_weight

# Cross-attention keys and values see text, which has no noise to hide errors in, and are computed once; they stay in full precision.
PLACES = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ffn.net.0.proj", "ffn.net.2")


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

    def holds(self, layers: Sequence["Int8Linear"]) -> bool:
        """Whether `layers` are still the rows of this one (see `side_by_side`); a model that was moved or copied has its own memory."""
        row = 0
        for layer in layers:
            if layer.weight.data_ptr() != self.weight.data_ptr() + row * self.in_features:
                return False
            row += layer.out_features
        return True


def side_by_side(layers: Sequence[Int8Linear]) -> Int8Linear:
    """One layer that gives the outputs of several side by side, for the same input, which is then quantized once.

    The layers become views of its rows: nothing is kept twice, and their names and state dicts stay.
    """
    first, rows = layers[0], [layer.out_features for layer in layers]
    joined = Int8Linear(first.in_features, sum(rows), first.bias is not None)
    whole = join_channels(*((layer.weight, layer.weight_scale, layer.bias) for layer in layers))
    for name, values in zip(("weight", "weight_scale", "bias"), whole, strict=True):
        setattr(joined, name, values)
        for layer, view in zip(layers, () if values is None else values.split(rows), strict=values is not None):
            setattr(layer, name, view)
    return joined


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


def quantize_structure(transformer: nn.Module) -> None:
    """Swap the layers without their values, so that an INT8 state dict can be loaded."""
    for name, linear in replaceable_linears(transformer).items():
        replace_module(transformer, name, Int8Linear(linear.in_features, linear.out_features, linear.bias is not None))
