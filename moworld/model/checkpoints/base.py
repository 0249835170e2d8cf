"""The weights that training starts from (paper 3.1): published experts, read straight into the experts of a new model.

Each rank reads its own rows of each tensor, from a folder or a URI; nothing is converted or stored first, so no disk is needed.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from tqdm import tqdm

from moworld.documents import parse_json_object
from moworld.errors import InputError
from moworld.files import open_uri, sha256_file, shipped_path
from moworld.model.checkpoints.convert import Shapes, finite, follows_pitch, match, new_adapter
from moworld.model.checkpoints.reader import Checkpoint, find_experts, has_experts
from moworld.model.codec import WEIGHTS, StreamingCodec
from moworld.model.experts import Experts
from moworld.model.settings import BaseSettings
from moworld.model.weights import load_weights, tensors_of
from moworld.model.world import Placement, WorldConfig, WorldModel, expert_structure


def base_experts(base: BaseSettings, names: Sequence[str]) -> dict[str, Checkpoint]:
    """Returns the checkpoints of the experts `names`, or {} of a base that is a codec only.

    Raises InputError if one is missing, and as `find_experts` does.
    """
    if not base.low and _has_codec(base) and not has_experts(shipped_path(base.source)):
        return {}
    found = find_experts(shipped_path(base.source))
    if base.low:
        other = find_experts(base.low)  # of a folder with one expert, that one
        found["low"] = other.get("low", other["high"])
    for name in names:
        if name not in found:
            fix = "set inputs.base_low to weights that have it, such as Wan2.2's"
            raise InputError(base.source, name, f"no {name}-noise expert", f"the experts {' and '.join(names)}", fix)
    return {name: found[name] for name in names}


def base_hash(base: BaseSettings, names: Sequence[str]) -> str:
    """Returns the SHA-256 that identifies the weights: of the content of local files, and of what a store states of its own.

    Raises InputError if the settings name another one, and as `base_experts` does.
    """
    import fsspec

    digest = hashlib.sha256()
    files = [(name, file) for name, checkpoint in base_experts(base, names).items() for file in checkpoint.files]
    if _has_codec(base):
        files.append(("codec", f"{_codec_folder(base)}/{WEIGHTS}"))
    for name, file in files:
        system, path = fsspec.core.url_to_fs(file)
        content = f"{system.size(path)} {system.checksum(path)}" if "://" in file else sha256_file(path)
        digest.update(f"{name}\0{path.rpartition('/')[2]}\0{content}\n".encode())
    found = digest.hexdigest()
    if base.sha256 and found != base.sha256:
        fix = "give the former weights again, or start another run"
        raise InputError(base.source, "SHA-256", found[:12], f"{base.sha256[:12]}, as at the start of the run", fix)
    return found


def world_from_base(
    base: BaseSettings, config: WorldConfig, seed: int, names: list[str] | None = None, place: Placement | None = None, progress: bool = True
) -> WorldModel:
    """Returns a model whose experts have the base's weights, and a camera adapter of gate 0 if the base has none (see `new_adapter`).

    The experts are fresh if the base is a codec only.
    names, place: as for `WorldModel.load`; progress: whether to show a progress bar
    Raises InputError if the weights are not those of a model of this configuration, or not finite.
    """
    made, stored_experts, adapters = [], base_experts(base, config.experts), True
    if not stored_experts:
        return WorldModel.create(config, seed)
    for name, checkpoint in stored_experts.items():
        expert = expert_structure(config.model.transformer())
        stored, new = match(checkpoint, {key: tuple(value.shape) for key, value in tensors_of(expert).items()})
        adapters = adapters and not new
        if name in (names or config.experts):
            if place is not None:
                place(expert)
            load_weights(expert, _Stored(checkpoint, f"{name}-noise expert of the base", progress), stored)
            adapter = _New(new, checkpoint.entries[stored["patch_embedding.weight"]].dtype, seed)
            load_weights(expert, adapter, {key: key for key in new})
        made.append(expert)
    pitch = config.pitch or follows_pitch(shipped_path(base.source), adapters)
    config = config.model_copy(update={"base": base.source, "base_licence": base.licence, "pitch": pitch})
    return WorldModel(config, Experts(made[0], made[1] if len(made) > 1 else None, config.model.boundary))


def base_codec(base: BaseSettings) -> StreamingCodec | None:
    """Returns the small codec in folder `vae` of the base, or None if the base has none, or a published autoencoder."""
    if not _has_codec(base):
        return None
    folder = _codec_folder(base)
    with TemporaryDirectory(prefix="codec-") as scratch:
        for file in ("config.json", WEIGHTS):
            with open_uri(f"{folder}/{file}") as stream:
                Path(scratch, file).write_bytes(stream.read())
        return StreamingCodec.from_pretrained(scratch)


def _has_codec(base: BaseSettings) -> bool:
    """Whether folder `vae` of the base holds the small codec, by its configuration alone."""
    path = f"{_codec_folder(base)}/config.json"
    try:
        with open_uri(path) as stream:
            content = stream.read()
    except (InputError, FileNotFoundError, NotADirectoryError):
        return False
    return bool(parse_json_object(content, path, "fetch the file again").get("_class_name") == "StreamingCodec")


def _codec_folder(base: BaseSettings) -> str:
    return f"{shipped_path(base.source).rstrip('/')}/vae"


@dataclass(frozen=True)
class _Stored:
    """Reads a checkpoint with a progress bar in bytes; refuses values that are not finite."""

    checkpoint: Checkpoint
    description: str
    progress: bool

    def read(self, rows: Mapping[str, slice]) -> Iterator[tuple[str, Tensor]]:
        entries = [(self.checkpoint.entries[key], part) for key, part in rows.items()]
        total = sum(entry.rows(0, len(range(*part.indices(entry.shape[0])))).nbytes if entry.shape else entry.nbytes for entry, part in entries)
        with tqdm(total=total, desc=self.description, unit="B", unit_scale=True, disable=not self.progress) as bar:
            for key, value in finite(self.checkpoint.read(rows), self.checkpoint.path):
                bar.update(value.nbytes)
                yield key, value


@dataclass(frozen=True)
class _New:
    """Initializes the tensors that a checkpoint lacks, as a `moworld.model.weights.Reader`."""

    shapes: Shapes
    dtype: torch.dtype
    seed: int

    def read(self, rows: Mapping[str, slice]) -> Iterator[tuple[str, Tensor]]:
        return ((key, value[rows[key]]) for key, value in new_adapter(self.shapes, self.dtype, self.seed))
