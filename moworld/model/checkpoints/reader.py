"""One expert's weights on disk or behind a URI: single or sharded safetensors, one tensor in memory at a time."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from moworld.errors import InputError
from moworld.files import open_uri
from moworld.model.checkpoints.layouts import layout_of
from moworld.tensors import Entry, read_header, read_rows

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
FOLDERS = {"high": ("transformer", "high_noise_model"), "low": ("transformer_2", "low_noise_model")}


class Checkpoint:
    """The tensors of one expert: `entries` by key, `files` with the keys each of them holds, and its layout.

    Raises InputError for a pickle, a shard that the index names and that is not there, a truncated file, and keys of no known layout.
    """

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        if self.path.endswith(PICKLES):
            raise InputError(path, "", "a pickle", "safetensors", "convert it where you trust it; pickles are not loaded here")
        self.files = self._files()
        self.entries: dict[str, Entry] = {}
        self.file_of: dict[str, str] = {}
        for file, keys in self.files.items():
            with open_uri(file) as stream:
                found = read_header(stream, file)
            if missing := sorted(set(keys) - set(found)):
                raise InputError(file, missing[0], "nothing", "a tensor, as the index says", "fetch the shard and its index again")
            for key, entry in found.items():
                self.entries[key], self.file_of[key] = entry, file
        layout = layout_of(list(self.entries))
        if layout is None:
            found_keys = ", ".join(list(self.entries)[:3]) or "no tensor"
            raise InputError(
                path, "keys", found_keys, "an expert in Wan's, Diffusers' or the published MoWorld layout", "pass one of those"
            )
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
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(index, "weight_map", error, "a map of tensors to shards", "fetch the index again") from None
            if missing := sorted(set(weights.values()) - set(names)):
                raise InputError(index, missing[0], "no such file", "the shard that the index names", "fetch the missing shard")
            return {f"{self.path}/{file}": [k for k, v in weights.items() if v == file] for file in sorted(set(weights.values()))}
        single = [name for name in names if name.endswith(".safetensors")]
        if len(single) != 1:
            pickles = [name for name in names if name.endswith(PICKLES)]
            found = (
                f"{len(single)} safetensors files without an index" if single else f"a pickle ({pickles[0]})" if pickles else "no weights"
            )
            raise InputError(self.path, "", found, "one safetensors file, or shards with their index", "pass the folder of one expert")
        return {f"{self.path}/{single[0]}": []}

    def tensors(self, keys: list[str]) -> Iterator[tuple[str, Tensor]]:
        """The named tensors one after another, in the file's dtype."""
        with ExitStack() as stack:
            streams: dict[str, Any] = {}
            for key in keys:
                file = self.file_of[key]
                if file not in streams:
                    streams[file] = stack.enter_context(open_uri(file))
                yield key, read_rows(streams[file], self.entries[key])

    def config(self) -> dict[str, Any]:
        """config.json beside the weights, or nothing."""
        folder = self.path.rpartition("/")[0] if self.path.endswith(".safetensors") else self.path
        with _maybe(f"{folder}/config.json") as stream:
            return dict(json.load(stream)) if stream is not None else {}


def find_experts(source: str) -> dict[str, Checkpoint]:
    """The experts of a folder, file or URI: `high` and `low`, or `high` alone for a checkpoint of one expert.

    Raises InputError when there is none, or a folder of one expert's name holds the other one's weights (as its config.json says).
    """
    source = source.rstrip("/")
    if source.endswith((".safetensors", *PICKLES)):
        return {"high": Checkpoint(source)}
    names = _names(source)
    found = {}
    for expert, places in FOLDERS.items():
        for place in places:
            for name in (place, f"{place}.safetensors"):
                if name in names and expert not in found:
                    found[expert] = Checkpoint(f"{source}/{name}")
    if not found:
        found = {"high": Checkpoint(source)}
    for expert, checkpoint in found.items():
        said = checkpoint.config().get("expert", expert)
        if said != expert:
            mend = "put it into the folder of its own name"
            raise InputError(checkpoint.path, "expert", f"the {said}-noise expert", f"the {expert}-noise expert", mend)
    if "high" not in found:
        raise InputError(source, "", "the low-noise expert alone", "the high-noise expert, or both", "fetch the other expert as well")
    return found


def _names(folder: str) -> list[str]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(folder)
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in system.ls(root, detail=False))
    except (OSError, ValueError, ImportError) as error:
        raise InputError(folder, "", f"{type(error).__name__}", "a folder of weights", "check the path or the URI's protocol") from None


@contextmanager
def _maybe(uri: str) -> Iterator[Any]:
    """The open file, or None where there is none."""
    try:
        stream = open_uri(uri)
    except InputError:
        yield None
        return
    with stream:
        yield stream
