"""The kernels on a GPU: right against their references, as fast as which peer, and what a pair of experts reaches with them (paper 5.4).

    python -m moworld.evaluation.bench_kernels --profile pipelines/profiles/wan22-a14b.yaml --json result.json

A ratio above 1 says that ours is faster than the best peer. Each section is on its own: one that fails is in the result with its error.
Weights are random; time does not depend on what they say. Of frames a second the decoder has no part.
"""

import argparse
import gc
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, scaled_dot_product_attention

from kernels.attention import partial_attention, partial_attention_backward, selected
from kernels.attention import reference as attention_reference
from kernels.int8_linear import int8_linear, quantize_weight
from kernels.int8_linear.reference import quantize_rows
from kernels.modulated_norm import modulated_norm
from kernels.qk_norm_rope import qk_norm_rope
from kernels.timing import milliseconds, relative_error
from moworld.files import write_json
from moworld.inference.placement import denoising_flops
from moworld.model.experts import Experts
from moworld.model.history import HistoryPolicy
from moworld.model.int8 import Int8Linear, join_projections, replace_module, replaceable_linears
from moworld.model.rollout import Rollout
from moworld.model.text import TextSettings
from moworld.model.world import ModelSettings, WorldConfig

Row = dict[str, Any]
Runs = dict[str, Callable[[], Any]]
TRIALS = 3  # sets of random inputs for each check
ROLLOUTS = ("rollout bfloat16", "rollout int8", "rollout bfloat16 short", "rollout int8 short")
SECTIONS = ("ceilings", "correctness", "attention", "linears", "norms", *ROLLOUTS)


def measured(kind: str, case: str, ours: Callable[[], Any], peers: Runs, work: float, unit: str) -> Row:
    """A row: milliseconds of ours and of each peer, ours in units of work a second, and the best peer's time over ours.

    work: operations, or bytes; unit: TFLOP/s, TOP/s or GB/s. A peer that cannot run here is there with its error in place of a time.
    """
    took, of_peers = milliseconds(ours), dict[str, Any]()
    for name, run in peers.items():
        try:
            of_peers[name] = milliseconds(run)
        except (RuntimeError, ImportError) as error:  # that peer's end alone: the reader sees why
            of_peers[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    best = min((value for value in of_peers.values() if isinstance(value, float)), default=float("nan"))
    rate = work / took / (1e6 if unit == "GB/s" else 1e9)
    return {"kind": kind, "case": case, "ms": took, "rate": rate, "unit": unit, "peers": of_peers, "ratio": best / took}


def ceilings(size: int = 8192) -> Iterator[Row]:
    """What the device reaches in a large bfloat16 product, in an int8 one, and in a copy (bytes read and written)."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    x, w = (torch.randint(-127, 128, (size, size), device="cuda", dtype=torch.int8) for _ in range(2))
    source, target = (torch.randn(2**29, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    name = torch.cuda.get_device_name()
    yield measured("ceiling", f"{name}: bfloat16 {size}^3, cuBLAS", lambda: a @ b, {}, 2.0 * size**3, "TFLOP/s")
    yield measured("ceiling", f"{name}: int8 {size}^3, torch._int_mm", lambda: torch._int_mm(x, w.T), {}, 2.0 * size**3, "TOP/s")
    yield measured("ceiling", f"{name}: copy of 1 GiB", lambda: target.copy_(source), {}, 2.0 * source.nbytes, "GB/s")


def correctness() -> Iterator[Row]:
    """Every kernel against its reference, on fresh random inputs, at the A14B's width and at ragged sizes."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        worst = dict[str, dict[str, float]]()
        for _ in range(TRIALS):
            torch.manual_seed(time.time_ns() % 2**31)
            for case, (names, found), wanted in _pairs(dtype):
                errors = {name: relative_error(one, other) for name, one, other in zip(names, found, wanted, strict=True)}
                before = worst.setdefault(case, errors)
                worst[case] = {name: error if not error <= before[name] else before[name] for name, error in errors.items()}  # nan stays
        for case, errors in worst.items():
            yield {"kind": "error", "case": f"{case}, {str(dtype).removeprefix('torch.')}", "worst": errors}


def _pairs(dtype: torch.dtype) -> Iterator[tuple[str, tuple[tuple[str, ...], tuple[Tensor, ...]], tuple[Tensor, ...]]]:
    def draw(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, device="cuda", dtype=of)

    for rows, keys, dim in ((257, 391, 128), (128, 256, 128), (77, 1560, 128), (65, 130, 64), (33, 17, 40), (1, 2, 128)):
        query, key, value = (draw(2, n, 3, dim).transpose(1, 2) for n in (rows, keys, keys))
        wanted, wanted_lse = attention_reference.forward(query, key, value)
        for name in ("triton",) if selected("cuda").name == "triton" or dtype == torch.float32 else ("hopper", "triton"):
            output, lse = partial_attention(query, key, value, backend=name)
            yield f"attention by {name} {rows} x {keys} x {dim}", (("output", "lse"), (output, lse)), (wanted, wanted_lse)
        gradient = draw(*output.shape)
        gradients = partial_attention_backward(gradient, query, key, value, wanted, wanted_lse, backend="triton")
        exact = attention_reference.backward(gradient, query, key, value, wanted, wanted_lse)
        yield f"attention backward {rows} x {keys} x {dim}", (("query", "key", "value"), gradients), exact
    for m, k, n in ((300, 5120, 257), (128, 512, 256), (97, 1000, 40), (5, 33, 7), (1, 13824, 128)):
        x, (weight, scale), bias = draw(m, k), quantize_weight(draw(n, k)), draw(n)
        y = int8_linear(x, weight, scale, bias, backend="triton")
        rounded, of_rows = quantize_rows(x)
        product = (rounded.double() @ weight.double().T) * of_rows * scale + bias  # float64 holds the integers exactly
        yield f"int8_linear {m} x {k} x {n}", (("output",), (y,)), (product.to(dtype),)
    for m, k in ((300, 5120), (97, 1000)):  # bfloat16 values have many ties; an error of 0: each integer and scale is the reference's
        x, one = draw(m, k).bfloat16().to(dtype), torch.eye(k, device="cuda", dtype=torch.int8)
        y = int8_linear(x, one, torch.ones(k, device="cuda"), backend="triton")
        rounded, of_rows = quantize_rows(x)
        yield f"int8_linear by the identity {m} x {k}", (("output",), (y,)), ((rounded * of_rows).to(dtype),)
    for batch, tokens, width, per_token in ((1, 301, 5120, False), (2, 77, 5120, False), (1, 77, 5120, True), (2, 5, 1000, True)):
        x = 3 * draw(batch, tokens, width) + 2
        scale, shift = (draw(batch, tokens if per_token else 1, width, of=torch.float32) for _ in range(2))
        normed, exact_norm = (modulated_norm(x, scale, shift, 1e-6, backend=name) for name in ("triton", "reference"))
        yield f"modulated_norm {batch} x {tokens} x {width}", (("output",), (normed,)), (exact_norm,)
    for batch, tokens, heads, dim in ((1, 301, 40, 128), (2, 33, 40, 128), (2, 5, 3, 24)):
        query, key, _ = draw(batch, tokens, 3 * heads * dim).chunk(3, dim=-1)
        angles = (10 * draw(1, tokens, 1, dim // 2, of=torch.float32)).repeat_interleave(2, dim=-1)
        weights, (cosines, sines) = [1 + 0.3 * draw(heads * dim) for _ in range(2)], (angles.cos(), angles.sin())
        turned, exact_pair = (
            qk_norm_rope(query, key, weights[0], weights[1], cosines, sines, 1e-6, backend=name) for name in ("triton", "reference")
        )
        yield f"qk_norm_rope {batch} x {tokens} x {heads} x {dim}", (("query", "key"), turned), exact_pair


def attention(model: ModelSettings, tokens: int, keys: tuple[int, ...]) -> Iterator[Row]:
    """Forward against SDPA's backends, and backward against SDPA's autograd; tensors lie token by token, as projections leave them."""
    heads, dim = model.num_attention_heads, model.attention_head_dim
    for count in keys:
        query, key, value = (
            torch.randn(1, n, heads, dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for n in (tokens, count, count)
        )

        def by(*backends: SDPBackend, q: Tensor = query, k: Tensor = key, v: Tensor = value) -> Callable[[], Tensor]:
            def run() -> Tensor:
                with sdpa_kernel(list(backends)):
                    return scaled_dot_product_attention(q, k, v)

            return run

        peers: Runs = {
            "SDPA": partial(scaled_dot_product_attention, query, key, value),
            "SDPA cuDNN": by(SDPBackend.CUDNN_ATTENTION),
            "SDPA flash": by(SDPBackend.FLASH_ATTENTION),
        }
        case, operations = f"{heads} heads of {dim}, {tokens} x {count}", 4.0 * heads * tokens * count * dim
        ours = partial(partial_attention, query, key, value)
        yield measured("attention", case, ours, peers, operations, "TFLOP/s")
    output, lse = partial_attention(query, key, value)
    gradient, leaves = torch.randn_like(output), [x.detach().requires_grad_() for x in (query, key, value)]
    result = scaled_dot_product_attention(leaves[0], leaves[1], leaves[2])
    backward: Runs = {"SDPA": lambda: torch.autograd.grad(result, leaves, gradient, retain_graph=True)}
    back = partial(partial_attention_backward, gradient, query, key, value, output, lse)
    yield measured("attention backward", case, back, backward, 2.5 * operations, "TFLOP/s")


def linears(model: ModelSettings, tokens: tuple[int, ...]) -> Iterator[Row]:
    """INT8, the rounding of activations included, against cuBLAS in bfloat16, torch._int_mm without fusion, and torchao as its users run it."""
    width = model.num_attention_heads * model.attention_head_dim
    sizes = ((width, width), (width, 3 * width), (width, model.ffn_dim), (model.ffn_dim, width))
    for m in tokens:
        for k, n in sizes:
            x, w, bias = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in ((m, k), (n, k), (n,)))
            (weight, scale), wide = quantize_weight(w), bias.float()
            peers: Runs = {
                "bfloat16": partial(linear, x, w, bias),
                "_int_mm": partial(_unfused, x, weight, scale, bias),
            }
            if find_spec("torchao") and m == tokens[0]:  # it compiles for seconds
                peers["torchao"] = _by_torchao(x, w, bias)
            ours = partial(int8_linear, x, weight, scale, wide, backend="triton")
            row = measured("int8 linear", f"{m} x {k} x {n}", ours, peers, 2.0 * m * k * n, "TOP/s")
            yield {**row, "over_bfloat16": row["peers"]["bfloat16"] / row["ms"]}


def _unfused(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    scale = x.abs().amax(dim=1, keepdim=True).float() / 127
    product = torch._int_mm((x / scale).round().to(torch.int8), weight.T)
    return (product * scale * weight_scale + bias).to(x.dtype)


def _by_torchao(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Any]:

    @cache
    def compiled() -> Any:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], device="cuda", dtype=x.dtype)
        layer.load_state_dict({"weight": weight, "bias": bias})
        quantize_(layer, Int8DynamicActivationInt8WeightConfig())
        return torch.compile(layer)

    @torch.no_grad()
    def run() -> Any:
        return compiled()(x)

    return run


def norms(model: ModelSettings, tokens: int) -> Iterator[Row]:
    """The two norms against plain torch, beside the bytes that must be moved: activations once in and once out, modulations and angles once in."""
    heads, dim = model.num_attention_heads, model.attention_head_dim
    x, key = (torch.randn(1, tokens, heads * dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for rows in (1, tokens):
        scale, shift = (torch.randn(1, rows, heads * dim, device="cuda") for _ in range(2))
        ours, plain = (partial(modulated_norm, x, scale, shift, 1e-6, backend=name) for name in ("triton", "reference"))
        case = f"modulated_norm {tokens} x {heads * dim}, modulation of {'each token' if rows > 1 else 'the sample'}"
        moved = 2.0 * x.nbytes + scale.nbytes + shift.nbytes
        yield measured("norm", case, ours, {"plain": plain}, moved, "GB/s")
    angles = (10 * torch.rand(1, tokens, 1, dim // 2, device="cuda")).repeat_interleave(2, dim=-1)
    weight = torch.randn(heads * dim, device="cuda", dtype=torch.bfloat16)
    of = partial(qk_norm_rope, x, key, weight, weight, angles.cos(), angles.sin(), 1e-6)
    peers: Runs = {"plain": partial(of, backend="reference"), "plain, complex": partial(of, backend="pairs")}
    moved = 4.0 * x.nbytes + 2 * angles.nbytes
    yield measured("norm", f"qk_norm_rope {tokens} x {heads} x {dim}", partial(of, backend="triton"), peers, moved, "GB/s")


def rollout(config: WorldConfig, precision: str, chunks: int, reached: dict[str, float]) -> Iterator[Row]:
    """Frames a second of an expert pair, beside the roofline of what the device reached in operations a second, by the ceilings' units."""
    yield {**_chunks(config, precision, chunks, torch.device("cuda")), **roofline(config, precision, reached["TFLOP/s"], reached["TOP/s"])}


def roofline(config: WorldConfig, precision: str, bf16_flops: float, int8_flops: float) -> Row:
    """Frames a second if every product ran at the measured ceilings and nothing else took time. *_flops: operations a second."""
    by_linears, by_others = denoising_flops(config.model, config.height, config.width, config.text.length)
    seconds = by_linears / (int8_flops if precision == "int8" else bf16_flops) + by_others / bf16_flops
    return {"roofline_fps": 4 * config.model.chunk_latents / seconds, "chunk_flops": by_linears + by_others}


def random_experts(config: WorldConfig, precision: str, device: torch.device) -> Experts:
    """Experts of random weights, made where they stay, in bfloat16; `int8` quantizes each before the next is made."""
    from moworld.model.rope import GlobalRotaryPosEmbed
    from moworld.model.transformer import MoWorldTransformer3DModel

    made = []
    for _ in config.experts:
        with torch.device("meta"):
            expert = MoWorldTransformer3DModel(**config.model.transformer())
        sizes = expert.config
        expert = expert.bfloat16().to_empty(device=device).eval().requires_grad_(False)
        expert.rope = GlobalRotaryPosEmbed(sizes.attention_head_dim, tuple(sizes.patch_size), sizes.rope_max_seq_len).to(device)
        for name, parameter in expert.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        if precision == "int8":
            for name, layer in list(replaceable_linears(expert).items()):
                replace_module(expert, name, Int8Linear.from_linear(layer))
            join_projections(expert)
        made.append(expert)
    return Experts(made[0], made[1] if len(made) > 1 else None, config.model.boundary)


@torch.inference_mode()
def _chunks(config: WorldConfig, precision: str, chunks: int, device: torch.device) -> Row:
    """Seconds of each chunk after one step that warms up."""
    _forget(device)
    model, generator = config.model, torch.Generator(device).manual_seed(0)
    roll = Rollout(
        random_experts(config, precision, device),
        torch.randn(1, model.latent_channels, 1, config.height // 8, config.width // 8, generator=generator, device=device),
        torch.randn(1, config.text.length, model.text_dim, generator=generator, device=device),
        torch.tensor([config.intrinsics], device=device),
        schedule=config.schedule,
        policy=model.history,
        chunk_latents=model.chunk_latents,
        generator=generator,
        sampler=model.sampler,
    )
    frames = 4 * model.chunk_latents
    poses = torch.eye(4, device=device).repeat(1, frames, 1, 1)
    poses[0, :, 2, 3] = torch.arange(1, frames + 1, device=device) * config.move_units
    roll.next_chunk(poses, exit_step=0)
    took, kernels = [], list[Row]()
    for _ in range(chunks):
        _wait(device)
        started = time.perf_counter()
        latents = roll.next_chunk(poses)
        _wait(device)
        took.append(time.perf_counter() - started)
    if device.type == "cuda":
        kernels = _kernels(partial(roll.next_chunk, poses, exit_step=0))
    row = {
        "kind": "rollout",
        "case": f"{precision}, {model.history.num_frames} frames of history, {model.history_attention}, {model.student_steps} steps",
        "chunk_seconds": took,
        "fps": frames / min(took),
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        "finite": bool(latents.isfinite().all()),
        "kernels": kernels,
    }
    return row


def _kernels(run: Callable[[], Any], most: int = 14) -> list[Row]:
    """Where the device's time goes: the kernels of a run that take the most."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    events = sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)
    return [{"kernel": event.key[:90], "ms": event.self_device_time_total / 1000, "calls": event.count} for event in events[:most]]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def bench_kernels(config: WorldConfig, sections: tuple[str, ...] = SECTIONS, chunks: int = 2) -> Iterator[Row]:
    """Rows as they are measured, each with its section."""
    tokens = config.model.tokens_per_frame(config.height, config.width)
    window, with_history = (config.model.chunk_latents + 1) * tokens, (config.model.chunk_latents + 1 + HistoryPolicy().num_frames) * tokens
    reached = dict[str, float]()
    made: dict[str, Callable[[], Iterator[Row]]] = {
        "ceilings": ceilings,
        "correctness": correctness,
        "attention": lambda: attention(config.model, window, (config.text.length, window, with_history)),
        "linears": lambda: linears(config.model, (window, with_history)),
        "norms": lambda: norms(config.model, with_history),
    }
    short = config.model_copy(
        update={"model": config.model.model_copy(update={"history_attention": "block_causal", "history": HistoryPolicy()})}
    )  # five frames of history, read once a chunk
    for name in ROLLOUTS:
        made[name] = partial(rollout, short if "short" in name else config, name.split()[1], chunks, reached)
    for section in sections:
        started = time.perf_counter()
        try:
            for row in made[section]():
                if row["kind"] == "ceiling":
                    reached[row["unit"]] = 1e12 * row["rate"]
                yield {"section": section, **row}
        except Exception as error:  # the section's end: it is in the result, and the others go on
            yield {"section": section, "kind": "failed", "case": f"{type(error).__name__}: {error}"[:400], "trace": traceback.format_exc()}
        _forget(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        yield {"section": section, "kind": "time", "case": "seconds of the section", "seconds": time.perf_counter() - started}


def line(row: Row) -> str:
    """A row as it is printed."""
    rest = {key: value for key, value in row.items() if key not in ("section", "kind", "case", "trace", "kernels")}
    told = ", ".join(f"{key} {_short(value)}" for key, value in rest.items())
    return "\n".join([f"{row['kind']}: {row['case']}: {told}", *(f"    {_short(entry)}" for entry in row.get("kernels", [])), *row.get("trace", "").splitlines()])  # fmt: skip


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} {_short(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def written(path: Path | None) -> Callable[[Row], None]:
    """Takes rows, and writes all of them after each: a run that is cut keeps what it measured."""
    rows = list[Row]()

    def take(row: Row) -> None:
        rows.append(row)
        if path is not None:
            write_json(path, rows)

    return take


def config_of(profile: dict[str, Any]) -> WorldConfig:
    """The sizes of a profile that is read as plain YAML."""
    data, text = profile["data"], TextSettings(**profile["text"])
    return WorldConfig(model=ModelSettings(**profile["model"]), text=text, height=data["height"], width=data["width"], fps=16.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, required=True, help="YAML whose sizes are measured")
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}; rollouts need the ceilings")
    parser.add_argument("--chunks", type=int, default=2, help="of the rollout that are timed")
    given = parser.parse_args()
    take = written(given.json)
    for row in bench_kernels(config_of(yaml.safe_load(given.profile.read_text())), tuple(given.sections.split(",")), given.chunks):
        print(line(row), flush=True)
        take(row)


if __name__ == "__main__":
    main()
