"""Describes a checkpoint from its headers: sizes, dtypes, shards, and the configuration that the shapes imply."""

import math
from collections import Counter
from typing import Any

from moworld.model.checkpoints.layouts import ADAPTER, DIFFUSERS, GATE, to_diffusers
from moworld.model.checkpoints.reader import Checkpoint, find_experts


def describe(source: str) -> dict[str, Any]:
    """Returns {"source", "experts": {name: `describe_expert`}} of a checkpoint. Raises InputError as `find_experts` does."""
    return {"source": source, "experts": {name: describe_expert(checkpoint) for name, checkpoint in find_experts(source).items()}}


def describe_expert(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns layout, parameters, bytes, dtypes (by name), shards, config (implied by shapes), adapter, and parameters and tensors by group."""
    entries = {key if checkpoint.layout == DIFFUSERS else to_diffusers(key): entry for key, entry in checkpoint.entries.items()}
    groups: dict[str, list[int]] = {}
    for key, entry in entries.items():
        name = ".".join(key.split(".")[: 2 if key.startswith("condition_embedder.") else 1])
        group = groups.setdefault(name, [0, 0])
        group[0] += math.prod(entry.shape)
        group[1] += 1
    adapter = "none"
    if ADAPTER + "conv.weight" in entries:
        gates = [value for _, value in checkpoint.tensors([GATE])] if GATE in checkpoint.entries else []
        adapter = f"gate {float(gates[0]):.4g}" if gates else "no gate (used as gate 1)"
    return {
        "layout": checkpoint.layout,
        "parameters": sum(math.prod(entry.shape) for entry in entries.values()),
        "bytes": sum(entry.nbytes for entry in entries.values()),
        "dtypes": dict(sorted(Counter(str(e.dtype).removeprefix("torch.") for e in entries.values()).items())),
        "shards": {file.rpartition("/")[2]: sum(name == file for name in checkpoint.file_of.values()) for file in checkpoint.files},
        "config": _config({key: entry.shape for key, entry in entries.items()}),
        "adapter": adapter,
        "groups": {name: {"parameters": parameters, "tensors": tensors} for name, (parameters, tensors) in groups.items()},
    }


def _config(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Returns the sizes that shapes imply; the number of heads is not among them."""
    patch, head = shapes.get("patch_embedding.weight"), shapes.get("proj_out.weight")
    config: dict[str, Any] = {"num_layers": 1 + max((int(key.split(".")[1]) for key in shapes if key.startswith("blocks.")), default=-1)}
    if patch:
        config |= {"width": patch[0], "in_channels": patch[1], "patch_size": list(patch[2:])}
    if head and patch:
        config["out_channels"] = head[0] // math.prod(patch[2:])
    for name, key in (("ffn_dim", "blocks.0.ffn.net.0.proj.weight"), ("freq_dim", "condition_embedder.time_embedder.linear_1.weight"),
                      ("text_dim", "condition_embedder.text_embedder.linear_1.weight")):  # fmt: skip
        if key in shapes:
            config[name] = shapes[key][0 if name == "ffn_dim" else 1]
    return config
