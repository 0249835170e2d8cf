"""Errors of the GPU kernels against their references, at the A14B's widths and at ragged sizes (a section of `moworld bench kernels`)."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from moworld.kernels.attention import attention, attention_backward
from moworld.kernels.attention import reference as attention_reference
from moworld.kernels.chips import why_no_hopper
from moworld.kernels.int8_linear import int8_linear, quantize_weight
from moworld.kernels.int8_linear.reference import quantize_rows
from moworld.kernels.modulated_norm import modulated_norm
from moworld.kernels.qk_norm_rope import qk_norm_rope
from moworld_ops.benchmarks.measure import Row, relative_error

NUM_TRIALS = 3  # sets of random inputs for each check
Draw = Callable[..., Tensor]
Case = tuple[str, tuple[str, ...], tuple[Tensor, ...], tuple[Tensor, ...]]  # case, names of the results, found, exact


def kernel_errors() -> Iterator[Row]:
    """Yields the largest relative errors of every kernel in three dtypes, on fresh random inputs."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        draw, worst = partial(torch.randn, device="cuda", dtype=dtype), dict[str, dict[str, float]]()
        backends = ["triton"] if why_no_hopper() or dtype == torch.float32 else ["hopper", "triton"]
        for _ in range(NUM_TRIALS):
            torch.manual_seed(time.time_ns() % 2**31)
            for case, names, found, exact in chain(_attention(draw, backends), _int8_linear(draw, dtype), _norms(draw)):
                errors = {name: relative_error(one, other) for name, one, other in zip(names, found, exact, strict=True)}
                before = worst.setdefault(case, errors)
                worst[case] = {name: error if not error <= before[name] else before[name] for name, error in errors.items()}  # NaN stays
        for case, errors in worst.items():
            yield {"kind": "error", "case": f"{case}, {str(dtype).removeprefix('torch.')}", "worst": errors}


def _attention(draw: Draw, backends: list[str]) -> Iterator[Case]:
    for rows, keys, dim in ((257, 391, 128), (128, 256, 128), (77, 1560, 128), (65, 130, 64), (33, 17, 40), (1, 2, 128)):
        query, key, value = (draw(2, n, 3, dim).transpose(1, 2) for n in (rows, keys, keys))
        exact = attention_reference.forward(query, key, value)
        for name in backends:
            found = attention(query, key, value, backend=name, return_lse=True)
            yield f"attention by {name} {rows} x {keys} x {dim}", ("output", "lse"), found, exact
        gradient = draw(*exact[0].shape)
        gradients = attention_backward(gradient, query, key, value, *exact, backend="triton")
        wanted = attention_reference.backward(gradient, query, key, value, *exact)
        yield f"attention backward {rows} x {keys} x {dim}", ("query", "key", "value"), gradients, wanted


def _int8_linear(draw: Draw, dtype: torch.dtype) -> Iterator[Case]:
    for m, k, n in ((300, 5120, 257), (128, 512, 256), (97, 1000, 40), (5, 33, 7), (1, 13824, 128)):
        x, (weight, scale), bias = draw(m, k), quantize_weight(draw(n, k)), draw(n)
        y = int8_linear(x, weight, scale, bias, backend="triton")
        rounded, row_scales = quantize_rows(x)
        product = (rounded.double() @ weight.double().T) * row_scales * scale + bias  # float64 holds the integers exactly
        yield f"int8_linear {m} x {k} x {n}", ("output",), (y,), (product.to(dtype),)
    for m, k in ((300, 5120), (97, 1000)):  # bfloat16 values have many ties; error 0: each integer and scale equals the reference's
        x, identity = draw(m, k).bfloat16().to(dtype), torch.eye(k, device="cuda", dtype=torch.int8)
        y = int8_linear(x, identity, torch.ones(k, device="cuda"), backend="triton")
        rounded, row_scales = quantize_rows(x)
        yield f"int8_linear by the identity {m} x {k}", ("output",), (y,), ((rounded * row_scales).to(dtype),)


def _norms(draw: Draw) -> Iterator[Case]:
    for batch, tokens, width, per_token in ((1, 301, 5120, False), (2, 77, 5120, False), (1, 77, 5120, True), (2, 5, 1000, True)):
        x = 3 * draw(batch, tokens, width) + 2
        scale, shift = (draw(batch, tokens if per_token else 1, width, dtype=torch.float32) for _ in range(2))
        found, exact = (modulated_norm(x, scale, shift, 1e-6, backend=name) for name in ("triton", "reference"))
        yield f"modulated_norm {batch} x {tokens} x {width}", ("output",), (found,), (exact,)
    for batch, tokens, heads, dim in ((1, 301, 40, 128), (2, 33, 40, 128), (2, 5, 3, 24)):
        query, key, _ = draw(batch, tokens, 3 * heads * dim).chunk(3, dim=-1)
        angles = (10 * draw(1, tokens, 1, dim // 2, dtype=torch.float32)).repeat_interleave(2, dim=-1)
        weights = [1 + 0.3 * draw(heads * dim) for _ in range(2)]
        run = partial(qk_norm_rope, query, key, weights[0], weights[1], angles.cos(), angles.sin(), 1e-6)
        pair, exact_pair = (run(backend=name) for name in ("triton", "reference"))
        yield f"qk_norm_rope {batch} x {tokens} x {heads} x {dim}", ("query", "key"), pair, exact_pair
