"""Is a folder a world model's? Asked of its index and of the headers of its weights, before anything is built from them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from moworld.errors import InputError
from moworld.files import read_json
from moworld.settings import Settings

AGAIN = "copy the model folder again, whole"
Configuration = TypeVar("Configuration", bound=Settings)


def read_index(path: Path, kind: type[Configuration], class_name: str) -> Configuration:
    """The configuration in a model's index. Raises InputError for the index of another kind of folder, and naming the first wrong value."""
    from pydantic import ValidationError

    values = _mapping(path)
    named = values.get("_class_name", class_name)
    if named != class_name:
        raise InputError(path, "_class_name", named, class_name, "published checkpoints are read by 'moworld model import'")
    try:
        return kind(**{key: value for key, value in values.items() if not key.startswith("_")})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            path, where, repr(first["input"])[:80], first["msg"], "mend the value, or take a folder that MoWorld wrote"
        ) from None


def check_weights(folders: Iterable[Path], name: str) -> None:
    """Raises InputError where a folder lacks its weights (one file, or shards by an index), or a file is no whole safetensors file."""
    from safetensors import SafetensorError, safe_open

    for folder in folders:
        index = folder / f"{name}.index.json"
        shards = _mapping(index).get("weight_map") if index.is_file() else {"": name}
        if not isinstance(shards, dict) or not shards:
            raise InputError(index, "weight_map", shards, "the file of every tensor", AGAIN)
        for file in sorted({str(file) for file in shards.values()}):
            path = folder / file
            if not path.is_file():
                raise InputError(folder, file, "no such file", "the weights of an expert", AGAIN)
            try:
                with safe_open(path, "pt"):
                    pass  # the header was read, and covers the file
            except (SafetensorError, OSError) as error:
                raise InputError(path, "", f"no safetensors ({error})", "a whole safetensors file", AGAIN) from None


def _mapping(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(path, "", type(values).__name__, "a JSON object", AGAIN)
    return values
