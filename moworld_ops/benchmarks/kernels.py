"""`moworld bench kernels`: errors and speed of the kernels on a GPU, and frames per second of an expert pair (paper 5.4).

A ratio above 1 means that ours is faster than the best peer. A section that fails is a row with its error, and the others still run.
Weights are random.
"""

import json
import re
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from moworld.model.settings import HistoryPolicy
from moworld.model.world import WorldConfig
from moworld_ops.benchmarks.kernel_errors import kernel_errors
from moworld_ops.benchmarks.kernel_rollout import free_memory, rollout_row, roofline
from moworld_ops.benchmarks.kernel_speed import attention_rows, ceilings, linear_rows, norm_rows
from moworld_ops.benchmarks.measure import Row

ROLLOUTS = ("rollout bfloat16", "rollout int8", "rollout bfloat16 short", "rollout int8 short")
SECTIONS = ("ceilings", "correctness", "attention", "linears", "norms", *ROLLOUTS)


def bench_kernels(config: WorldConfig, sections: tuple[str, ...] = SECTIONS) -> Iterator[Row]:
    """Yields rows as they are measured, each with its section. `short` rollouts have five frames of history, read once per chunk."""
    device, reached = torch.device("cuda" if torch.cuda.is_available() else "cpu"), dict[str, float]()
    for section in sections:
        started = time.perf_counter()
        try:
            for row in _section(section, config, reached)():
                if row["kind"] == "ceiling":
                    reached[row["unit"]] = 1e12 * row["rate"]
                yield {"section": section, **row}
        except Exception as error:  # the end of this section only: the row has the error
            yield {"section": section, "kind": "failed", "case": f"{type(error).__name__}: {error}"[:400], "trace": traceback.format_exc()}
        free_memory(device)
        yield {"section": section, "kind": "time", "case": "seconds of the section", "seconds": time.perf_counter() - started}


def _section(section: str, config: WorldConfig, reached: dict[str, float]) -> Callable[[], Iterator[Row]]:
    model, tokens = config.model, config.model.tokens_per_frame(config.height, config.width)
    window, with_history = (model.chunk_latents + 1) * tokens, (model.chunk_latents + 1 + HistoryPolicy().num_frames) * tokens
    if section in ROLLOUTS:
        if "short" in section:
            model = model.model_copy(update={"history_attention": "block_causal", "history": HistoryPolicy()})
        return partial(_rollout, config.model_copy(update={"model": model}), section.split()[1], reached)
    return {
        "ceilings": ceilings,
        "correctness": kernel_errors,
        "attention": lambda: attention_rows(model, window, (config.text.length, window, with_history)),
        "linears": lambda: linear_rows(model, (window, with_history)),
        "norms": lambda: norm_rows(model, with_history),
    }[section]


def _rollout(config: WorldConfig, precision: str, reached: dict[str, float]) -> Iterator[Row]:
    ceiling = roofline(config, precision, reached["TFLOP/s"], reached["TOP/s"])
    yield {**rollout_row(config, precision, torch.device("cuda")), **ceiling}


def line(row: Row) -> str:
    """Returns a row as text with four digits per number; its kernels and its trace follow on lines of their own."""
    rest = {key: value for key, value in row.items() if key not in ("section", "kind", "case", "trace", "kernels")}
    parts = [f"{row['kind']}: {row['case']}: {_short(rest)}", *(f"    {_short(entry)}" for entry in row.get("kernels", []))]
    return "\n".join([*parts, *row.get("trace", "").splitlines()])


def _short(value: dict[str, Any]) -> str:
    text = re.sub(r"\d+\.\d+(e[+-]?\d+)?", lambda number: f"{float(number[0]):.4g}", json.dumps(value))
    return text.strip("{}").replace('"', "")
