"""One expert's weights on disk or at a URI: single or sharded safetensors. At most one tensor is in memory at a time."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from moworld.documents import parse_json_object
from moworld.errors import InputError
from moworld.files import open_uri
from moworld.model.checkpoints.layouts import layout_of
from moworld.tensors import Entry, Shard, read_header

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
FOLDERS = {"high": ("transformer", "high_noise_model"), "low": ("transformer_2", "low_noise_model")}


class Checkpoint:
    """The tensors of one expert: `entries` by key, `files` with the keys that the index assigns to each, and the layout.

    Raises InputError for a pickle, a shard of the index that is missing, a truncated file, and keys of no known layout.
    """

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        if self.path.endswith(PICKLES):
            raise InputError(path, "", "a pickle", "safetensors", "convert it in a sandbox; pickles are not loaded here")
        self.files = self._files()
        self.entries: dict[str, Entry] = {}
        self.file_of: dict[str, str] = {}
        for file, keys in self.files.items():
            with open_uri(file) as stream:
                found = read_header(stream, file)
            if missing := sorted(set(keys) - set(found)):
                raise InputError(file, missing[0], "nothing", "a tensor, as the index says", "fetch the shard and its index again")
            self.entries |= found
            self.file_of |= dict.fromkeys(found, file)
        layout = layout_of(list(self.entries))
        if layout is None:
            found_keys = ", ".join(list(self.entries)[:3]) or "no tensor"
            expected = "an expert in Wan's, Diffusers' or the published MoWorld layout"
            raise InputError(path, "keys", found_keys, expected, "pass one of those")
        self.layout = layout

    def _files(self) -> dict[str, list[str]]:
        if self.path.endswith(".safetensors"):
            return {self.path: []}
        names = _names(self.path)
        indices = [name for name in names if name.endswith(".safetensors.index.json")]
        if indices:
            index = f"{self.path}/{indices[0]}"
            with open_uri(index) as stream:
                try:
                    weights: dict[str, str] = json.load(stream)["weight_map"]
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise InputError(index, "weight_map", error, "a map of tensors to shards", "fetch the index again") from None
            if missing := sorted(set(weights.values()) - set(names)):
                raise InputError(index, missing[0], "no such file", "the shard that the index names", "fetch the missing shard")
            return {f"{self.path}/{file}": [k for k, v in weights.items() if v == file] for file in sorted(set(weights.values()))}
        single = [name for name in names if name.endswith(".safetensors")]
        if len(single) == 1:
            return {f"{self.path}/{single[0]}": []}
        pickles = [name for name in names if name.endswith(PICKLES)]
        found = f"{len(single)} safetensors files without an index" if single else f"a pickle ({pickles[0]})" if pickles else "no weights"
        raise InputError(self.path, "", found, "one safetensors file, or shards with their index", "pass the folder of one expert")

    def tensors(self, keys: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Yields whole tensors in the order of `keys` (see `read`)."""
        return self.read(dict.fromkeys(keys, slice(None)))

    def read(self, rows: Mapping[str, slice]) -> Iterator[tuple[str, Tensor]]:
        """Yields rows of the first dimension of tensors, in the order of `rows`, in the file's dtype.

        Only these rows are read, and nothing is mapped: a file may be larger than the memory.
        """
        open_shard = cache(Shard)
        for key, part in rows.items():
            shape = self.entries[key].shape
            start, stop, _ = part.indices(shape[0] if shape else 1)
            yield key, open_shard(self.file_of[key]).rows([(key, start, stop - start)])[0]

    def config(self) -> dict[str, Any]:
        """Returns the config.json next to the weights, or {} if there is none."""
        folder = self.path.rpartition("/")[0] if self.path.endswith(".safetensors") else self.path
        try:
            stream = open_uri(f"{folder}/config.json")
        except InputError:
            return {}
        with stream:
            return parse_json_object(stream.read(), f"{folder}/config.json", "fetch the file again")


def find_experts(source: str) -> dict[str, Checkpoint]:
    """Returns the experts of a folder, file or URI: `high` and `low`, or `high` alone for a checkpoint of one expert.

    Raises InputError if there is none, or a folder named for one expert holds the other's weights (according to its config.json).
    """
    source = source.rstrip("/")
    if source.endswith((".safetensors", *PICKLES)):
        return {"high": Checkpoint(source)}
    names = _names(source)
    found = {}
    for expert, places in FOLDERS.items():
        for name in (f"{place}{suffix}" for place in places for suffix in ("", ".safetensors")):
            if name in names and expert not in found:
                found[expert] = Checkpoint(f"{source}/{name}")
    if not found:
        found = {"high": Checkpoint(source)}
    for expert, checkpoint in found.items():
        stated = checkpoint.config().get("expert", expert)
        if stated != expert:
            fix = "move it to the folder of its own name"
            raise InputError(checkpoint.path, "expert", f"the {stated}-noise expert", f"the {expert}-noise expert", fix)
    if "high" not in found:
        raise InputError(source, "", "the low-noise expert alone", "the high-noise expert, or both", "fetch the other expert as well")
    return found


def has_experts(folder: str) -> bool:
    """Whether a folder or URI holds weights of an expert, itself or in a folder of an expert's name."""
    places = {place for names in FOLDERS.values() for place in names}
    return any(name.endswith((".safetensors", ".index.json", *PICKLES)) or name.removesuffix(".safetensors") in places for name in _names(folder))


def _names(folder: str) -> list[str]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(folder)
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in system.ls(root, detail=False))
    except (OSError, ValueError, ImportError) as error:
        raise InputError(folder, "", f"{type(error).__name__}", "a folder of weights", "check the path or the URI's protocol") from None
