"""Weights on disk: safetensors files, read tensor by tensor straight to the device and dtype of their use, and written the same way.

Files are mapped, and the mapping is closed after every `STRETCH` bytes, so that loading takes little more memory than the weights. Of a
tensor that is sharded over ranks, a rank reads its own rows only.
"""

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn

from moworld.errors import InputError
from moworld.files import Pathlike, read_json_object, write_json
from moworld.tensors import Entry, read_header, write_tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARD_BYTES = 512 * 2**20
STRETCH, OWN_MAPPING = 16_000_000, 1 << 16
FIX = "copy the whole model folder again"


class Reader(Protocol):
    """The stored tensors of an expert: a model folder's (`Weights`), or those of any layout (`checkpoints.reader.Checkpoint`)."""

    def read(self, rows: Mapping[str, slice]) -> Iterator[tuple[str, Tensor]]:
        """Yields rows of the first dimension by tensor; each may be invalid when the next one is read."""
        ...


class Weights:
    """The tensors of a folder by name, in one file or in the shards that its index names. Opening reads the headers only.

    entries: shape, dtype and bytes of every tensor as stored
    Raises InputError if a file is missing, incomplete or not in safetensors format.
    """

    def __init__(self, folder: Pathlike, name: str = WEIGHTS) -> None:
        root = Path(folder)
        index = root / f"{name}.index.json"
        shards = read_json_object(index).get("weight_map") if index.is_file() else {"": name}
        if not isinstance(shards, dict) or not shards:
            raise InputError(index, "weight_map", shards, "the file of every tensor", FIX)
        self.folder, self.name = root, name
        self.entries, self._file = dict[str, Entry](), dict[str, Path]()
        for file in sorted({str(file) for file in shards.values()}):
            path = root / file
            if not path.is_file():
                raise InputError(root, file, "no such file", "the weights of an expert", FIX)
            with path.open("rb") as stream:
                entries = read_header(stream, str(path))
            self.entries |= entries
            self._file |= dict.fromkeys(entries, path)

    def read(self, rows: Mapping[str, slice]) -> Iterator[tuple[str, Tensor]]:
        """Yields rows of tensors by name, grouped by file. They are views of a mapped file: copy each before the next is read."""
        by_file = dict[Path, list[str]]()
        for key in rows:
            by_file.setdefault(self._file[key], []).append(key)
        for file, names in by_file.items():
            while names:
                with safe_open(file, "pt") as opened:
                    seen = 0
                    while names and (not seen or seen + self.entries[names[0]].nbytes <= STRETCH):
                        key = names.pop(0)
                        seen += self.entries[key].nbytes
                        value = opened.get_tensor(key)
                        yield key, value[rows[key]] if value.ndim else value


@torch.inference_mode(False)
@torch.no_grad()
def load_weights(module: nn.Module, weights: Reader, names: dict[str, str], device: torch.device | str = "cpu") -> None:
    """Loads tensors of a module, in the module's dtypes: into new memory, of sharded tensors into the rank's part.

    names:  tensor of the module -> tensor of the file
    device: of tensors that are on the meta device; the others stay on theirs
    """
    own, state, by_file = tensors_of(module), dict[str, Tensor](), {stored: name for name, stored in names.items()}
    for stored, value in weights.read({stored: own_rows(own[name]) for stored, name in by_file.items()}):
        name = by_file[stored]
        if is_sharded(target := own[name]):
            target.to_local().copy_(value)  # type: ignore[attr-defined]
        else:
            state[name] = lasting_memory(target.shape, target.dtype, device if target.is_meta else target.device).copy_(value)
        del value  # and with it the mapping
    module.load_state_dict(state, strict=False, assign=True)


def is_sharded(tensor: Tensor) -> bool:
    """Returns whether a tensor is a `DTensor`. Importing that class costs a second, and most processes never see one."""
    return hasattr(tensor, "full_tensor")


def own_rows(tensor: Tensor) -> slice:
    """Returns the rows, in the first dimension, of a tensor that this rank holds: all, or those of its shard, as FSDP cuts them."""
    if not is_sharded(tensor):
        return slice(None)
    (part,) = tensor.__create_chunk_list__()  # type: ignore[attr-defined]
    return slice(part.offsets[0], part.offsets[0] + part.sizes[0])


@torch.no_grad()
def allocate(module: nn.Module, device: torch.device, parameters: str | None = None) -> None:
    """Moves a module to a device; tensors on the meta device get uninitialised memory there. Sharded tensors stay sharded.

    parameters: another device for the parameters
    """

    def move(tensor: Tensor) -> Tensor:
        place = device if parameters is None or not isinstance(tensor, nn.Parameter) else parameters
        return torch.empty_like(tensor, device=place) if tensor.is_meta else tensor.to(place)

    module._apply(move)


def gathered(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields tensors on the CPU, whole; a sharded one is gathered when it is its turn, so that one at a time is in memory.

    All ranks must iterate; ranks that do not need the values may drop them.
    """
    for key, value in state.items():
        yield key, (value.full_tensor() if is_sharded(value) else value).cpu().contiguous()  # type: ignore[attr-defined]


def write_shards(folder: Path, plan: Mapping[str, Entry], tensors: Iterator[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES) -> None:
    """Writes tensors, in the order of the plan, as one file or as shards of at most `shard_bytes` with an index, in Diffusers' format."""
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
        write_json(folder / f"{WEIGHTS}.index.json", {"metadata": {"total_size": total}, "weight_map": weights})


def lasting_memory(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Returns an uninitialised tensor for values that outlive the activations around them.

    On CPUs a large one is a mapping of its own: its memory is returned when it is freed, and it does not fragment the memory of
    activations.
    """
    size = prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or size < OWN_MAPPING:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(tuple(shape))


@torch.inference_mode(False)
def drop_weights(module: nn.Module, names: Iterable[str]) -> None:
    """Frees the memory of tensors; their shapes and dtypes stay, on the meta device."""
    own = tensors_of(module)
    module.load_state_dict({name: torch.empty_like(own[name], device="meta") for name in names}, strict=False, assign=True)


def cast_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    """Changes the dtype of parameters, in place. Buffers stay: scales of INT8 layers and rotary tables are float32 in every model."""
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(value.detach().to(dtype), value.requires_grad))


def release_memory() -> None:
    """Returns freed memory to the operating system and to accelerators; glibc and their allocators keep it otherwise."""
    if sys.platform == "linux":
        trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    for kind in ("npu", "cuda"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            module.empty_cache()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of the module's state dict without detaching them."""
    return module.state_dict(keep_vars=True)


def check_keys(module: nn.Module, weights: Weights, fix: str) -> None:
    """Raises InputError if the file's tensors differ from the module's in name or shape."""
    own = tensors_of(module)
    missing, unknown = [key for key in own if key not in weights.entries], [key for key in weights.entries if key not in own]
    if missing or unknown:
        found = f"{len(missing)} missing and {len(unknown)} unknown keys, first {(missing + unknown)[0]}"
        raise InputError(weights.folder / weights.name, "keys", found, "the keys of the configured model", fix)
    for key, value in own.items():
        if tuple(value.shape) != weights.entries[key].shape:
            raise InputError(weights.folder / weights.name, key, weights.entries[key].shape, f"the shape {tuple(value.shape)}", fix)
