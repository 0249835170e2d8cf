"""Finds the files that rows name: inside their folder, with the hash of the row. What opens each kind of file is given."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from moworld.errors import InputError
from moworld.files import sha256_file
from moworld_ops.data_contracts.rules import Rule
from moworld_ops.data_contracts.values import Values

Row = dict[str, Any]


class FileCheck:
    """Checks files of a folder; `opened` counts the different ones.

    openers: by kind of file, of a path and the row that names it, what is wrong with the file, "" if nothing is
    """

    def __init__(self, folder: Path, openers: Mapping[str, Callable[[Path, Row], str]]) -> None:
        self.folder, self.openers = Path(folder), openers
        self._seen, self._hashes = set[Path](), dict[Path, str]()

    @property
    def opened(self) -> int:
        return len(self._seen)

    def faults(self, rule: Rule, columns: dict[str, Values]) -> dict[int, str]:
        """Returns what is wrong, by row number, for the rows whose file breaks a rule of kind `file` or `hash`."""
        named, found = columns[rule.column if rule.kind == "file" else rule.text], dict[int, str]()
        rows = np.flatnonzero(~named.missing & ~named.wrong).tolist()
        for index in tqdm(rows, desc=rule.name, unit="file", disable=None):
            name = str(named.at(index))
            if rule.kind == "hash":
                fault = self._hash_fault(name, columns[rule.column].at(index))
            else:
                fault = self._fault(rule.text, name, {key: values.at(index) for key, values in columns.items()})
            if fault:
                found[index] = fault
        return found

    def _path(self, name: str) -> Path | str:
        """Returns the file of a name, or what is wrong with it."""
        path = self.folder / name
        try:
            inside = bool(name) and not PurePosixPath(name).is_absolute() and path.resolve().is_relative_to(self.folder.resolve())
            present = path.is_file()
        except (OSError, ValueError) as error:  # a name that is too long, or has a null byte
            return f"{name[:80]!r} ({error})"
        if not inside:
            return f"{name!r}, outside the directory"
        if not present:
            return f"{name}, which is no file of the directory"
        self._seen.add(path)
        return path

    def _hash_fault(self, name: str, expected: Any) -> str:
        path = self._path(name)
        if isinstance(path, str) or expected is None:
            return ""  # the rule on the file, or on the column, reports it
        if path not in self._hashes:
            self._hashes[path] = sha256_file(path)
        found = self._hashes[path]
        return "" if found == expected else f"{str(expected)[:12]}, and {name} has {found[:12]}"

    def _fault(self, kind: str, name: str, row: Row) -> str:
        path = self._path(name)
        if isinstance(path, str):
            return path
        try:
            fault = self.openers[kind](path, row)
        except (InputError, OSError, ValueError, EOFError) as error:
            fault = error.found if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return " ".join(f"{name}: {fault}".split())[:200] if fault else ""
