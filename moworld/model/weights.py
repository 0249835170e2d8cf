"""Weights on disk: safetensors files, read a few tensors at a time, straight to the device and the dtype where they will be used.

A file is mapped, not read into memory first: what was copied out of the mapping is dropped with it after every `STRETCH` bytes, so that
loading takes what the weights take and little more.
"""

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from moworld.errors import InputError
from moworld.files import Pathlike, read_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
STRETCH, OWN_MAPPING = 16_000_000, 1 << 16
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I8": torch.int8}


class Weights:
    """The tensors of a folder by name: those of one file, or of the shards that its index names. Opening reads the headers alone.

    shapes, dtypes: of every tensor as it is stored
    Raises InputError where a file is missing or is no safetensors file.
    """

    def __init__(self, folder: Pathlike, name: str = WEIGHTS) -> None:
        root = Path(folder)
        index = root / f"{name}.index.json"
        files = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else [name]
        self.folder, self.name = root, name
        self.shapes, self.dtypes, self._file = dict[str, tuple[int, ...]](), dict[str, torch.dtype](), dict[str, Path]()
        for file in files:
            if not (root / file).is_file():
                raise InputError(root, file, "no such file", "the weights of a model", "copy the model folder again, whole")
            try:
                with safe_open(root / file, "pt") as opened:
                    for key in opened.keys():  # noqa: SIM118
                        part = opened.get_slice(key)
                        self.shapes[key], self.dtypes[key] = tuple(part.get_shape()), DTYPES[part.get_dtype()]
                        self._file[key] = root / file
            except (SafetensorError, KeyError) as error:
                raise InputError(root / file, "", error, "a safetensors file of weights", "copy the model folder again, whole") from None

    def nbytes(self, key: str) -> int:
        """Bytes of one tensor as it is stored."""
        return prod(self.shapes[key]) * self.dtypes[key].itemsize

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Tensors by name, in files' order: views of a mapped file, to be copied before the next is asked for."""
        by_file = dict[Path, list[str]]()
        for key in keys:
            by_file.setdefault(self._file[key], []).append(key)
        for file, names in by_file.items():
            while names:
                with safe_open(file, "pt") as opened:
                    seen = 0
                    while names and (not seen or seen + self.nbytes(names[0]) <= STRETCH):
                        seen += self.nbytes(names[0])
                        key = names.pop(0)
                        yield key, opened.get_tensor(key)


@torch.inference_mode(False)
@torch.no_grad()
def load_weights(module: nn.Module, weights: Weights, names: dict[str, str], device: torch.device | str = "cpu") -> None:
    """Give tensors of a module their values: new memory on `device`, in the dtype that the module has them in (it may be a meta tensor's).

    names: tensor of the module to tensor of the file
    """
    own, state, by_file = tensors_of(module), dict[str, Tensor](), {stored: name for name, stored in names.items()}
    for stored, value in weights.read(by_file):
        name = by_file[stored]
        state[name] = lasting_memory(own[name].shape, own[name].dtype, device).copy_(value)
        del value  # with it goes the mapping
    module.load_state_dict(state, strict=False, assign=True)


def lasting_memory(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """An unset tensor for what outlives the operators around it.

    On CPUs a large one is a mapping of its own: it goes back whole when it is dropped, and it does not lie between activations, where it
    would keep the room that they leave from being used again.
    """
    size = prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or size < OWN_MAPPING:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(tuple(shape))


@torch.inference_mode(False)
def drop_weights(module: nn.Module, names: Iterable[str]) -> None:
    """Free the memory of tensors; their shapes and dtypes stay, on the meta device."""
    own = tensors_of(module)
    module.load_state_dict({name: torch.empty_like(own[name], device="meta") for name in names}, strict=False, assign=True)


def release_memory() -> None:
    """Give freed memory back: glibc keeps what it was given, and accelerators' allocators do."""
    if sys.platform == "linux":
        trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    for kind in ("npu", "cuda"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            module.empty_cache()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """What a state dict of the module holds, with its shapes and dtypes."""
    return module.state_dict(keep_vars=True)


def check_keys(module: nn.Module, weights: Weights, mend: str) -> None:
    """Raises InputError where the file has other tensors than the module, or of other shapes."""
    own = tensors_of(module)
    missing, unknown = [key for key in own if key not in weights.shapes], [key for key in weights.shapes if key not in own]
    if missing or unknown:
        found = f"{len(missing)} missing and {len(unknown)} unknown keys, first {(missing + unknown)[0]}"
        raise InputError(weights.folder / weights.name, "keys", found, "the keys of the configured model", mend)
    for key, value in own.items():
        if tuple(value.shape) != weights.shapes[key]:
            raise InputError(weights.folder / weights.name, key, weights.shapes[key], f"the shape {tuple(value.shape)}", mend)
