"""Checkpoints in and out: names change, bytes do not. Tensors pass one at a time: memory holds the largest, never a model."""

import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moworld.errors import InputError
from moworld.files import Pathlike, atomic_folder, link_or_copy, write_json
from moworld.model.checkpoints.layouts import ADAPTER, DIFFUSERS, GATE, LAYOUTS, MOWORLD, WAN, from_diffusers, to_diffusers
from moworld.model.checkpoints.reader import FOLDERS, Checkpoint, find_experts
from moworld.model.world import EXPERT_FOLDERS, WEIGHTS, WorldConfig
from moworld.tensors import Entry, write_tensors

SHARD_BYTES = 512 * 2**20


def import_model(source: str, out: Pathlike, config: WorldConfig, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> dict[str, Any]:
    """Write a world model folder from published weights of one or two experts.

    source: a folder, file or fsspec URI in any layout; config: of the model that the weights must fit
    seed:   of the camera adapter where the weights bring none; it then starts behind a gate of 0, and the output is the base model's
    returns: {"layout", "experts": {name: {"tensors", "bytes", "adapter"}}}
    Raises InputError for missing, left-over or misshapen tensors, values that are not finite, and what `find_experts` refuses.
    """
    found, told = find_experts(source), {}
    with atomic_folder(out) as target:
        for name, checkpoint in found.items():
            expert = _expected(config)
            names = {to_diffusers(key) if checkpoint.layout != DIFFUSERS else key: key for key in checkpoint.entries}
            fresh = _fresh_adapter(expert, names, checkpoint)
            _must_fit(checkpoint, names, expert, fresh)
            folder = target / EXPERT_FOLDERS[name]
            plan = {key: checkpoint.entries[names[key]] for key in expert if key in names}
            plan |= {key: _entry(shape, _dtype(checkpoint)) for key, shape in expert.items() if key in fresh}
            write_shards(folder, plan, _finite(_imported(checkpoint, names, fresh, expert, seed), checkpoint.path), shard_bytes)
            write_json(folder / "config.json", {"_class_name": "MoWorldTransformer3DModel", "expert": name, **config.model.transformer()})
            size = sum(entry.nbytes for entry in plan.values())
            told[name] = {"tensors": len(plan), "bytes": size, "adapter": "fresh, gate 0" if ADAPTER + "conv.weight" in fresh else "read"}
        index = {"_class_name": "WorldModel", **config.model_copy(update={"experts": tuple(sorted(found))}).model_dump(mode="json")}
        write_json(target / "model_index.json", index)
    return {"layout": next(iter(found.values())).layout, "experts": told}


def export_model(model: Pathlike, out: Pathlike, layout: str, shard_bytes: int = SHARD_BYTES) -> dict[str, Any]:
    """Write a model folder's experts in another layout: `wan` and `moworld` (folders high_noise_model, low_noise_model), or `diffusers`.

    Wan's layout has no place for a camera adapter: its gate must be 0. The published base's adapter has no gate: it must be 1.
    Raises InputError where the adapter does not fit, or the layout is none of the three.
    """
    if layout not in LAYOUTS:
        raise InputError("--layout", "", layout, f"one of {', '.join(LAYOUTS)}", "name a layout")
    found, told = find_experts(str(model)), {}
    with atomic_folder(out) as target:
        for name, checkpoint in found.items():
            if checkpoint.layout != DIFFUSERS:
                raise InputError(model, name, f"layout {checkpoint.layout}", "a world model folder", "import it first")
            keys = _exported_keys(checkpoint, layout)
            folder = target / (FOLDERS[name][0 if layout == DIFFUSERS else 1])
            plan = {key if layout == DIFFUSERS else from_diffusers(key): checkpoint.entries[key] for key in keys}
            tensors = ((key if layout == DIFFUSERS else from_diffusers(key), value) for key, value in checkpoint.tensors(keys))
            write_shards(folder, plan, tensors, shard_bytes)
            write_json(folder / "config.json", {**checkpoint.config(), "expert": name})
            told[name] = {"tensors": len(plan), "bytes": sum(entry.nbytes for entry in plan.values())}
        for path in sorted(Path(model, "vae").glob("*")) if layout == DIFFUSERS else ():
            link_or_copy(path, target / "vae" / path.name)
        if layout == DIFFUSERS:
            link_or_copy(Path(model) / "model_index.json", target / "model_index.json")
    return {"layout": layout, "experts": told}


def write_shards(folder: Path, plan: dict[str, Entry], tensors: Iterator[tuple[str, Tensor]], shard_bytes: int) -> None:
    """Write tensors, in the order of the plan, as one file or as shards of at most `shard_bytes` with an index, as Diffusers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[str]] = [[]]
    size = 0
    for key, entry in plan.items():
        if shards[-1] and size + entry.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += entry.nbytes
    stem = WEIGHTS.removesuffix(".safetensors")
    weights: dict[str, str] = {}
    for number, keys in enumerate(shards, start=1):
        file = WEIGHTS if len(shards) == 1 else f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / file, {key: plan[key] for key in keys}, islice(tensors, len(keys)))
        weights |= dict.fromkeys(keys, file)
    if len(shards) > 1:
        total = sum(entry.nbytes for entry in plan.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weights}, indent=1, sort_keys=True)
        (folder / f"{WEIGHTS}.index.json").write_text(text + "\n", encoding="utf-8")


def _expected(config: WorldConfig) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of an expert, by building it without memory."""
    from moworld.model.transformer import MoWorldTransformer3DModel

    with torch.device("meta"):
        transformer = MoWorldTransformer3DModel(**config.model.transformer())
    return {key: tuple(value.shape) for key, value in transformer.state_dict().items()}


def _fresh_adapter(expert: dict[str, tuple[int, ...]], names: dict[str, str], checkpoint: Checkpoint) -> set[str]:
    """Keys to be made: the whole adapter for weights of Wan2.2, the gate alone for the published base's adapter."""
    if checkpoint.layout == MOWORLD or any(key.startswith(ADAPTER) for key in names):
        return {GATE} - set(names)
    return {key for key in expert if key.startswith(ADAPTER)}


def _must_fit(checkpoint: Checkpoint, names: dict[str, str], expert: dict[str, tuple[int, ...]], fresh: set[str]) -> None:
    missing = sorted(set(expert) - set(names) - fresh)
    left_over = sorted(names[key] for key in set(names) - set(expert))
    if missing or left_over:
        found = f"{len(missing)} missing ({', '.join(missing[:4])}) and {len(left_over)} left over ({', '.join(left_over[:4])})"
        mend = "check the profile's model sizes; 'moworld model inspect' shows what the checkpoint holds"
        raise InputError(checkpoint.path, "keys", found, "the tensors of the profile's model", mend)
    for key, original in names.items():
        shape = checkpoint.entries[original].shape
        if shape != expert[key]:
            raise InputError(checkpoint.file_of[original], original, f"shape {shape}", f"{expert[key]}", "check the profile's model sizes")


def _imported(
    checkpoint: Checkpoint, names: dict[str, str], fresh: set[str], expert: dict[str, tuple[int, ...]], seed: int
) -> Iterator[tuple[str, Tensor]]:
    """All tensors of an expert by our names: those that are read, then those that are made."""
    by_original = {names[key]: key for key in expert if key in names}
    for original, tensor in checkpoint.tensors(list(by_original)):
        yield by_original[original], tensor
    generator, bound = torch.Generator().manual_seed(seed), 1.0
    for key in expert:
        if key not in fresh:
            continue
        shape = expert[key]
        if key == GATE:  # published adapters are heard in full; one that was just made is not heard yet
            made = torch.tensor([1.0 if fresh == {GATE} else 0.0])
        else:  # as torch initialises a convolution: the bound of its weight holds for its bias, too
            bound = 1 / math.sqrt(math.prod(shape[1:])) if key.endswith("weight") else bound
            made = torch.empty(shape, dtype=_dtype(checkpoint))
            for row in made:  # the largest is a gigabyte; drawn in float32 at once it would be three
                row.copy_(torch.empty(row.shape).uniform_(-bound, bound, generator=generator))
        yield key, made.to(_dtype(checkpoint))


def _finite(tensors: Iterator[tuple[str, Tensor]], path: str) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in tensors:
        extremes = tensor.aminmax() if tensor.is_floating_point() and tensor.numel() else ()  # which, unlike isfinite, takes no memory
        if not all(torch.isfinite(extreme) for extreme in extremes):
            found = f"{int((~torch.isfinite(tensor)).sum())} values that are not finite"
            raise InputError(path, key, found, "finite weights", "fetch the checkpoint again, or take an earlier one")
        yield key, tensor


def _exported_keys(checkpoint: Checkpoint, layout: str) -> list[str]:
    keys = list(checkpoint.entries)
    if layout == DIFFUSERS:
        return keys
    if quantized := [key for key in keys if key.endswith("weight_scale")]:
        raise InputError(checkpoint.path, quantized[0], "an INT8 model", "full precision", "export the model that was quantized")
    if GATE not in checkpoint.entries:
        if layout == MOWORLD:
            raise InputError(checkpoint.path, GATE, "no camera adapter", "a world model's", "export it as wan")
        return keys
    gate = float(next(value for _, value in checkpoint.tensors([GATE])))
    wanted = 0.0 if layout == WAN else 1.0
    if gate != wanted:
        mend = "export it as diffusers, which keeps adapter and gate"
        raise InputError(checkpoint.path, GATE, gate, f"{wanted:g}, for layout {layout} cannot say anything else", mend)
    return [key for key in keys if not key.startswith(ADAPTER) or (layout == MOWORLD and key != GATE)]


def _dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of the patch embedding, which stands for the checkpoint's."""
    return next(entry.dtype for key, entry in checkpoint.entries.items() if key.endswith("patch_embedding.weight"))


def _entry(shape: tuple[int, ...], dtype: torch.dtype) -> Entry:
    return Entry(dtype, shape, 0, math.prod(shape) * dtype.itemsize)
