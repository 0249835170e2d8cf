"""Imports and exports checkpoints: names change, values do not. One tensor is in memory at a time, never a whole model."""

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moworld.documents import parse_json_object
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_folder, link_or_copy, open_uri, write_json
from moworld.model.checkpoints.layouts import ADAPTER, DIFFUSERS, GATE, LAYOUTS, MOWORLD, WAN, from_diffusers, to_diffusers
from moworld.model.checkpoints.reader import FOLDERS, Checkpoint, find_experts
from moworld.model.weights import SHARD_BYTES, write_shards
from moworld.model.world import EXPERT_FOLDERS, WorldConfig, expert_structure
from moworld.tensors import Entry

Shapes = dict[str, tuple[int, ...]]


def import_model(source: str, out: Pathlike, config: WorldConfig, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> dict[str, Any]:
    """Writes a world model folder from published weights of one or two experts.

    source:  a folder, file or fsspec URI in any layout; config: of the model that the weights must fit
    seed:    of the camera adapter if the weights have none; its gate is then 0, so that the output is the base model's
    returns: {"layout", "experts": {name: {"tensors", "bytes", "adapter"}}}
    Raises InputError for missing or unknown tensors, wrong shapes, values that are not finite, and as `find_experts` does.
    """
    found, report = find_experts(source), {}
    with atomic_folder(out) as target:
        for name, checkpoint in found.items():
            expert = {key: tuple(value.shape) for key, value in expert_structure(config.model.transformer()).state_dict().items()}
            names, new = match(checkpoint, expert)
            folder = target / EXPERT_FOLDERS[name]
            dtype = checkpoint.entries[names["patch_embedding.weight"]].dtype  # of tensors that the checkpoint lacks
            plan = {key: checkpoint.entries[names[key]] for key in expert if key in names}
            read = zip(plan, (value for _, value in checkpoint.tensors([names[key] for key in plan])), strict=True)
            tensors = finite(chain(read, new_adapter(new, dtype, seed)), checkpoint.path)
            plan = plan | {key: Entry(dtype, shape, 0, math.prod(shape) * dtype.itemsize) for key, shape in new.items()}
            write_shards(folder, plan, tensors, shard_bytes)
            write_json(folder / "config.json", {"_class_name": "MoWorldTransformer3DModel", "expert": name, **config.model.transformer()})
            size = sum(entry.nbytes for entry in plan.values())
            report[name] = {"tensors": len(plan), "bytes": size, "adapter": "fresh, gate 0" if ADAPTER + "conv.weight" in new else "read"}
        learned = all(facts["adapter"] == "read" for facts in report.values())
        stated = {"experts": tuple(sorted(found)), "pitch": follows_pitch(source, learned)}
        index = {"_class_name": "WorldModel", **config.model_copy(update=stated).model_dump(mode="json")}
        write_json(target / "model_index.json", index)
    return {"layout": next(iter(found.values())).layout, "experts": report}


def follows_pitch(source: str, adapter: bool) -> bool:
    """Returns whether weights have learned a camera that looks up and down.

    A world model's folder states it. Of published weights, those with a camera adapter (`adapter`) have: their controls include it.
    """
    path = f"{source.rstrip('/')}/model_index.json"
    try:
        with open_uri(path) as stream:
            stated = parse_json_object(stream.read(), path, "fetch the file again")
    except (InputError, FileNotFoundError, NotADirectoryError):
        return adapter
    return bool(stated.get("pitch")) if stated.get("_class_name") == "WorldModel" else adapter


def export_model(model: Pathlike, out: Pathlike, layout: str, shard_bytes: int = SHARD_BYTES) -> dict[str, Any]:
    """Writes a model folder's experts in a layout: `wan` or `moworld` (folders high_noise_model, low_noise_model), or `diffusers`.

    Wan's layout has no camera adapter: the gate must be 0. The published base's adapter has no gate: it must be 1.
    Raises InputError if the adapter does not fit the layout, or the layout is unknown.
    """
    if layout not in LAYOUTS:
        raise InputError("--layout", "", layout, f"one of {', '.join(LAYOUTS)}", "pass one of them")
    found, report = find_experts(str(model)), {}
    with atomic_folder(out) as target:
        for name, checkpoint in found.items():
            if checkpoint.layout != DIFFUSERS:
                raise InputError(model, name, f"layout {checkpoint.layout}", "a world model folder", "import it first")
            folder = target / (FOLDERS[name][0 if layout == DIFFUSERS else 1])
            names = {key: key if layout == DIFFUSERS else from_diffusers(key) for key in _exported_keys(checkpoint, layout)}
            plan = {exported: checkpoint.entries[key] for key, exported in names.items()}
            write_shards(folder, plan, ((names[key], value) for key, value in checkpoint.tensors(list(names))), shard_bytes)
            write_json(folder / "config.json", {**checkpoint.config(), "expert": name})
            report[name] = {"tensors": len(plan), "bytes": sum(entry.nbytes for entry in plan.values())}
        for path in sorted(Path(model, "vae").glob("*")) if layout == DIFFUSERS else ():
            link_or_copy(path, target / "vae" / path.name)
        if layout == DIFFUSERS:
            link_or_copy(Path(model) / "model_index.json", target / "model_index.json")
    return {"layout": layout, "experts": report}


def match(checkpoint: Checkpoint, expert: Shapes) -> tuple[dict[str, str], Shapes]:
    """Returns the stored name of each tensor of an expert, and the tensors that it lacks and that must be initialized.

    For weights of Wan2.2 these are the whole camera adapter, for the published base its gate alone.
    expert: name and shape of its tensors
    Raises InputError for other missing tensors, unknown ones and wrong shapes.
    """
    names = {to_diffusers(key) if checkpoint.layout != DIFFUSERS else key: key for key in checkpoint.entries}
    has_adapter = checkpoint.layout == MOWORLD or any(key.startswith(ADAPTER) for key in names)
    new = {key: shape for key, shape in expert.items() if key not in names and (key == GATE if has_adapter else key.startswith(ADAPTER))}
    missing = sorted(set(expert) - set(names) - set(new))
    unknown = sorted(names[key] for key in set(names) - set(expert))
    if missing or unknown:
        found = f"{len(missing)} missing ({', '.join(missing[:4])}) and {len(unknown)} unknown ({', '.join(unknown[:4])})"
        fix = "check the profile's model sizes; 'moworld model inspect' shows what the checkpoint holds"
        raise InputError(checkpoint.path, "keys", found, "the tensors of the profile's model", fix)
    for key, original in names.items():
        shape = checkpoint.entries[original].shape
        if shape != expert[key]:
            raise InputError(checkpoint.file_of[original], original, f"shape {shape}", f"{expert[key]}", "check the profile's model sizes")
    return names, new


def new_adapter(shapes: Shapes, dtype: torch.dtype, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Yields initialised adapter tensors. The gate is 1 for a published adapter, whose gate alone is new, and 0 for a new adapter."""
    generator, bound = torch.Generator().manual_seed(seed), 1.0
    for key, shape in shapes.items():
        if key == GATE:
            yield key, torch.tensor([float(len(shapes) == 1)], dtype=dtype)
            continue
        bound = 1 / math.sqrt(math.prod(shape[1:])) if key.endswith("weight") else bound  # as torch: weight and bias have the same bound
        tensor = torch.empty(shape, dtype=dtype)
        for row in tensor:  # the largest tensor has a gigabyte; drawn at once in float32 it would need three
            row.copy_(torch.empty(row.shape).uniform_(-bound, bound, generator=generator))
        yield key, tensor


def finite(tensors: Iterator[tuple[str, Tensor]], path: str) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors; raises InputError for a value that is not finite."""
    for key, tensor in tensors:
        extremes = tensor.aminmax() if tensor.is_floating_point() and tensor.numel() else ()  # aminmax needs no memory, unlike isfinite
        if not all(torch.isfinite(extreme) for extreme in extremes):
            found = f"{int((~torch.isfinite(tensor)).sum())} values that are not finite"
            raise InputError(path, key, found, "finite weights", "fetch the checkpoint again, or take an earlier one")
        yield key, tensor


def _exported_keys(checkpoint: Checkpoint, layout: str) -> list[str]:
    keys = list(checkpoint.entries)
    if layout == DIFFUSERS:
        return keys
    if quantized := [key for key in keys if key.endswith("weight_scale")]:
        raise InputError(checkpoint.path, quantized[0], "an INT8 model", "full precision", "export the model before its quantization")
    if GATE not in checkpoint.entries:
        if layout == MOWORLD:
            raise InputError(checkpoint.path, GATE, "no camera adapter", "a world model's", "export it as wan")
        return keys
    gate = float(next(value for _, value in checkpoint.tensors([GATE])))
    expected = 0.0 if layout == WAN else 1.0
    if gate != expected:
        fix = "export it as diffusers, which keeps adapter and gate"
        raise InputError(checkpoint.path, GATE, gate, f"{expected:g}, because layout {layout} cannot store a gate", fix)
    return [key for key in keys if not key.startswith(ADAPTER) or (layout == MOWORLD and key != GATE)]
