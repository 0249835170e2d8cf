"""Speed of the GPU kernels beside SDPA, cuBLAS, torchao and plain PyTorch (sections of `moworld bench kernels`)."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, scaled_dot_product_attention

from moworld.kernels.attention import attention, attention_backward
from moworld.kernels.int8_linear import int8_linear, quantize_weight
from moworld.kernels.modulated_norm import modulated_norm
from moworld.kernels.qk_norm_rope import qk_norm_rope
from moworld.model.settings import ModelSettings
from moworld_ops.benchmarks.linear import by_torchao
from moworld_ops.benchmarks.measure import Row, gpu_milliseconds

Runs = dict[str, Callable[[], Any]]


def measured(kind: str, case: str, ours: Callable[[], Any], peers: Runs, work: float, unit: str) -> Row:
    """Returns a row: milliseconds of ours and of each peer, our rate, and the best peer's time over ours.

    work: operations or bytes; unit: TFLOP/s, TOP/s or GB/s. A peer that cannot run here has its error in place of a time.
    """
    ms, peer_ms = gpu_milliseconds(ours), dict[str, Any]()
    for name, run in peers.items():
        try:
            peer_ms[name] = gpu_milliseconds(run)
        except (RuntimeError, ImportError) as error:
            peer_ms[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    best = min((value for value in peer_ms.values() if isinstance(value, float)), default=float("nan"))
    rate = work / ms / (1e6 if unit == "GB/s" else 1e9)
    return {"kind": kind, "case": case, "ms": ms, "rate": rate, "unit": unit, "peers": peer_ms, "ratio": best / ms}


def ceilings(size: int = 8192) -> Iterator[Row]:
    """Yields the device's rates in a large bfloat16 product, in an int8 one, and in a copy (bytes read and written)."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    x, w = (torch.randint(-127, 128, (size, size), device="cuda", dtype=torch.int8) for _ in range(2))
    source, target = (torch.randn(2**29, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    name = torch.cuda.get_device_name()
    yield measured("ceiling", f"{name}: bfloat16 {size}^3, cuBLAS", lambda: a @ b, {}, 2.0 * size**3, "TFLOP/s")
    yield measured("ceiling", f"{name}: int8 {size}^3, torch._int_mm", lambda: torch._int_mm(x, w.T), {}, 2.0 * size**3, "TOP/s")
    yield measured("ceiling", f"{name}: copy of 1 GiB", lambda: target.copy_(source), {}, 2.0 * source.nbytes, "GB/s")


def attention_rows(model: ModelSettings, tokens: int, keys: tuple[int, ...]) -> Iterator[Row]:
    """Yields forward beside SDPA's backends and backward beside SDPA's autograd, in the memory layout of projections: token by token."""
    heads, dim = model.num_attention_heads, model.attention_head_dim
    for count in keys:
        query, key, value = (
            torch.randn(1, n, heads, dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for n in (tokens, count, count)
        )
        peers: Runs = {
            "SDPA": partial(scaled_dot_product_attention, query, key, value),
            "SDPA cuDNN": partial(sdpa_kernel(SDPBackend.CUDNN_ATTENTION)(scaled_dot_product_attention), query, key, value),
            "SDPA flash": partial(sdpa_kernel(SDPBackend.FLASH_ATTENTION)(scaled_dot_product_attention), query, key, value),
        }
        case, operations = f"{heads} heads of {dim}, {tokens} x {count}", 4.0 * heads * tokens * count * dim
        ours = partial(attention, query, key, value, return_lse=True)
        yield measured("attention", case, ours, peers, operations, "TFLOP/s")
    output, lse = attention(query, key, value, return_lse=True)
    gradient, leaves = torch.randn_like(output), [x.detach().requires_grad_() for x in (query, key, value)]
    result = scaled_dot_product_attention(leaves[0], leaves[1], leaves[2])
    backward: Runs = {"SDPA": lambda: torch.autograd.grad(result, leaves, gradient, retain_graph=True)}
    run = partial(attention_backward, gradient, query, key, value, output, lse)
    yield measured("attention backward", case, run, backward, 2.5 * operations, "TFLOP/s")


def linear_rows(model: ModelSettings, tokens: tuple[int, ...]) -> Iterator[Row]:
    """Yields INT8 with the rounding of activations beside cuBLAS in bfloat16, torch._int_mm without fusion, and compiled torchao."""
    width = model.num_attention_heads * model.attention_head_dim
    sizes = ((width, width), (width, 3 * width), (width, model.ffn_dim), (model.ffn_dim, width))
    for m in tokens:
        for k, n in sizes:
            x, w, bias = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in ((m, k), (n, k), (n,)))
            (weight, scale), wide = quantize_weight(w), bias.float()
            peers: Runs = {"bfloat16": partial(linear, x, w, bias), "_int_mm": partial(_unfused, x, weight, scale, bias)}
            if find_spec("torchao") and m == tokens[0]:  # it compiles for seconds
                peers["torchao"] = _compiled_torchao(x, w, bias)
            ours = partial(int8_linear, x, weight, scale, wide, backend="triton")
            row = measured("int8 linear", f"{m} x {k} x {n}", ours, peers, 2.0 * m * k * n, "TOP/s")
            yield {**row, "over_bfloat16": row["peers"]["bfloat16"] / row["ms"]}


def _unfused(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    scale = x.abs().amax(dim=1, keepdim=True).float() / 127
    product = torch._int_mm((x / scale).round().to(torch.int8), weight.T)
    return (product * scale * weight_scale + bias).to(x.dtype)


def _compiled_torchao(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Any]:
    @cache
    def compiled() -> Any:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], device="cuda", dtype=x.dtype)
        layer.load_state_dict({"weight": weight, "bias": bias})
        return torch.compile(by_torchao(layer))

    return torch.no_grad()(lambda: compiled()(x))


def norm_rows(model: ModelSettings, tokens: int) -> Iterator[Row]:
    """Yields the two norms beside plain PyTorch. Bytes are the minimum: activations read and written once, modulation and angles read once."""
    heads, dim = model.num_attention_heads, model.attention_head_dim
    x, key = (torch.randn(1, tokens, heads * dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for rows in (1, tokens):
        scale, shift = (torch.randn(1, rows, heads * dim, device="cuda") for _ in range(2))
        ours, plain = (partial(modulated_norm, x, scale, shift, 1e-6, backend=name) for name in ("triton", "reference"))
        case = f"modulated_norm {tokens} x {heads * dim}, modulation of {'each token' if rows > 1 else 'the sample'}"
        yield measured("norm", case, ours, {"plain": plain}, 2.0 * x.nbytes + scale.nbytes + shift.nbytes, "GB/s")
    angles = (10 * torch.rand(1, tokens, 1, dim // 2, device="cuda")).repeat_interleave(2, dim=-1)
    weight = torch.randn(heads * dim, device="cuda", dtype=torch.bfloat16)
    run = partial(qk_norm_rope, x, key, weight, weight, angles.cos(), angles.sin(), 1e-6)
    peers: Runs = {"plain": partial(run, backend="reference"), "plain, complex": partial(run, backend="pairs")}
    case, num_bytes = f"qk_norm_rope {tokens} x {heads} x {dim}", 4.0 * x.nbytes + 2 * angles.nbytes
    yield measured("norm", case, partial(run, backend="triton"), peers, num_bytes, "GB/s")
