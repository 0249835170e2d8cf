"""Measures tiles of the Triton kernels at the A14B's sizes on the GPU that is there: what the tables in the kernels' files are chosen by.

    python -m kernels.sweep --json sweep.json

Candidates are compiled by processes side by side and checked against the reference there; one that fails is reported, and the others go on.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.timing import milliseconds, relative_error

HEADS, DIM, QUERIES, KEYS = 40, 128, 6240, 14040
LINEARS = {  # tokens, from, to: query, key and value in one; the output; the feed-forward's second
    "int8_product": (6240, 5120, 15360),
    "int8_product square": (6240, 5120, 5120),
    "int8_product down": (6240, 13824, 5120),
}
LARGEST_ERROR = 2e-2  # of bfloat16 results: a roundings' 2^-8 and room
Options = dict[str, Any]
Case = tuple[Callable[[Options], Any], Callable[[], list[Tensor]], float, str]


def candidates(operator: str) -> list[Options]:
    """What is tried. Descriptors fail where there is no copy engine, and what takes too much shared memory fails."""
    if operator == "attention":
        return _named(
            ("ROWS", "KEYS", "num_warps", "num_stages"),
            [(128, 64, 8, 2), (128, 64, 8, 3), (128, 64, 4, 3), (128, 128, 8, 2), (64, 64, 4, 2), (64, 128, 4, 2), (256, 64, 8, 2)],
        )
    if operator == "attention on Hopper":
        return _named(("KEYS", "STAGES"), [(128, 2), (128, 3), (64, 2), (64, 4)])
    if operator == "attention backward":
        return _named(
            ("ROWS", "KEYS", "num_warps", "num_stages"),
            [(64, 64, 4, 2), (64, 64, 4, 3), (128, 64, 8, 2), (128, 128, 8, 1), (64, 128, 8, 2), (32, 128, 4, 2)],
        )
    if operator.startswith("int8_product"):
        tiles = _named(
            ("ROWS", "CHANNELS", "DEPTH", "num_warps", "num_stages"),
            [(128, 128, 128, 8, 3), (128, 128, 128, 4, 3), (128, 256, 128, 8, 4), (256, 128, 128, 8, 4)],
        )
        return [{**tile, "GROUP": group, "DESCRIPTORS": read} for tile in tiles for group in (8, 16, 32) for read in (True, False)]
    return [{"num_warps": warps} for warps in (4, 8, 16)]


def _named(names: tuple[str, ...], tiles: Sequence[tuple[int, ...]]) -> list[Options]:
    return [dict(zip(names, tile, strict=True)) for tile in tiles]


OPERATORS = ("attention on Hopper", "attention", *LINEARS, "int8_quantize", "attention backward", "modulated_norm", "qk_norm_rope")


@cache
def case(operator: str) -> Case:
    """What runs with options, what it should give, and its work: in operations, or in bytes."""
    generator = torch.Generator(device="cuda").manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda", dtype=dtype)

    folder = f"kernels.{operator.split()[0].replace('_product', '_linear').replace('_quantize', '_linear')}"
    module = import_module(f"{folder}.{'hopper_kernel' if 'Hopper' in operator else 'triton_kernel'}")
    reference = import_module(f"{folder}.reference")
    if operator.startswith("attention"):
        query, key, value = (draw(1, n, HEADS, DIM).transpose(1, 2) for n in (QUERIES, KEYS, KEYS))
        operations = 4.0 * HEADS * QUERIES * KEYS * DIM
        if "backward" not in operator:
            return (
                lambda options: module.forward(query, key, value, options)[0],
                lambda: [torch.nn.functional.scaled_dot_product_attention(query, key, value)],
                operations,
                "TFLOP/s",
            )
        output, lse = module.forward(query, key, value)
        gradient = draw(*output.shape)
        heads = slice(0, 1)  # of the reference, which writes the whole matrix down

        def wanted() -> list[Tensor]:
            return list(reference.backward(*(x[:, heads] for x in (gradient, query, key, value, output, lse))))

        return lambda options: module.backward(gradient, query, key, value, output, lse, options), wanted, 2.5 * operations, "TFLOP/s"
    if operator.startswith("int8_product"):
        m, k, n = LINEARS[operator]
        rows, scales = module.quantize(draw(m, k))
        weight, weight_scale = import_module("kernels.int8_linear").quantize_weight(draw(n, k))
        bias = draw(n)
        return (
            lambda options: module.product(rows, scales, weight, weight_scale, bias, torch.bfloat16, options),
            lambda: [(torch._int_mm(rows, weight.T).float() * scales[:, None] * weight_scale + bias.float()).bfloat16()],
            2.0 * m * k * n,
            "TOP/s",
        )
    if operator == "int8_quantize":
        xs = [draw(6240, 5120), draw(6240, 13824)]

        def quantized() -> list[Tensor]:
            return [part.squeeze(1) for x in xs for part in reference.quantize_rows(x)]

        def quantize(options: Options) -> list[Tensor]:
            return [part for x in xs for part in module.quantize(x, options)]

        return quantize, quantized, sum(3.0 * x.numel() for x in xs), "GB/s"
    return _norm_case(operator, module, reference, draw)


def _norm_case(operator: str, module: Any, reference: Any, draw: Callable[..., Tensor]) -> Case:
    x = draw(1, KEYS, HEADS * DIM)
    if operator == "modulated_norm":
        scale, shift = (draw(1, 1, HEADS * DIM, dtype=torch.float32) for _ in range(2))
        return (
            lambda options: module.modulated_norm(x, scale, shift, 1e-6, options),
            lambda: [reference.modulated_norm(x, scale, shift, 1e-6)],
            4.0 * x.numel(),
            "GB/s",
        )
    key, weight = draw(*x.shape), draw(HEADS * DIM)
    angles = draw(1, KEYS, 1, DIM // 2, dtype=torch.float32).repeat_interleave(2, dim=-1)
    arguments = (x, key, weight, weight, angles.cos(), angles.sin(), 1e-6)
    return (
        lambda options: module.qk_norm_rope(*arguments, options),
        lambda: list(reference.qk_norm_rope(*arguments)),
        8.0 * x.numel(),
        "GB/s",
    )


@cache
def wanted(operator: str) -> list[Tensor]:
    return case(operator)[1]()


def check(operator: str, options: Options) -> str:
    """Compile and run a candidate, in a process of its own; what is wrong with it, or ""."""
    try:
        found = case(operator)[0](options)
        found = [found] if isinstance(found, Tensor) else list(found)
        errors = [relative_error(one[:, : other.shape[1]] if operator == "attention backward" else one, other) for one, other in zip(found, wanted(operator), strict=True)]  # fmt: skip
        return "" if all(error < LARGEST_ERROR for error in errors) else f"relative errors {errors}"
    except Exception as error:  # this process's end: the sweep reports it and goes on with the others
        return f"{type(error).__name__}: {str(error)[:160]}"


def sweep(operators: tuple[str, ...], processes: int, seconds: float) -> Iterator[dict[str, Any]]:
    """A row for each candidate, an operator after another, the fastest first. Those that are not ready within `seconds` are left unmeasured."""
    ended, rows = time.monotonic() + seconds, [{"operator": name, "options": options} for name in operators for options in candidates(name)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        asked = [pool.apply_async(check, (row["operator"], row["options"])) for row in rows]
        for row, answer in zip(rows, asked, strict=True):
            try:
                row["wrong"] = answer.get(max(0.1, ended - time.monotonic()))
            except multiprocessing.TimeoutError:
                row["wrong"] = "not ready in time"
    for name in operators:  # now that the device is at rest
        yield from sorted((_measured(row) for row in rows if row["operator"] == name), key=lambda row: row["ms"])


def _measured(row: dict[str, Any]) -> dict[str, Any]:
    run, _, work, unit = case(row["operator"])
    if row["wrong"]:
        return {**row, "ms": float("inf"), "rate": 0.0, "unit": unit}
    took = milliseconds(lambda: run(row["options"]), budget=40.0)
    return {**row, "ms": took, "rate": work / took / (1e6 if unit == "GB/s" else 1e9), "unit": unit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the rows go")
    parser.add_argument("--operators", default=",".join(OPERATORS), help=f"of {', '.join(OPERATORS)}")
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=90.0, help="what has not compiled by then is left out")
    given = parser.parse_args()
    rows = []
    for row in sweep(tuple(given.operators.split(",")), given.processes, given.seconds):
        rows.append(row)
        tile = " ".join(f"{key.removeprefix('num_')}={int(value)}" for key, value in row["options"].items())
        print(f"{row['operator']:>18} {row['ms']:8.3f} ms {row['rate']:7.0f} {row['unit']:7} {tile} {row['wrong']}", flush=True)
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
