"""Finds a contract by name, by file, or at a revision of the repository."""

import subprocess
from pathlib import Path

from moworld.errors import InputError
from moworld_ops.components.platform.source import clone_root
from moworld_ops.data_contracts.load import Contract, load_contract, parse_contract


def find_contract(named: str) -> Contract:
    """Returns the contract NAME, FILE or NAME@REVISION; raises InputError if there is none, or it is no contract.

    A text that ends in .yaml, .yml or .json, or has a slash, is a file.
    """
    if named.endswith((".yaml", ".yml", ".json")) or "/" in named:
        try:
            return parse_contract(Path(named).read_text(encoding="utf-8-sig"), named)
        except (OSError, UnicodeDecodeError) as error:
            found = "text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or type(error).__name__
            raise InputError(named, "", found, "a contract", "check the path") from None
    name, at, revision = named.partition("@")
    if not at:
        return load_contract(name)
    root = clone_root(named)
    for folder in ("moworld_ops/data_contracts", "data_contracts"):  # the second is that of version 0.1
        command = ["git", "show", f"{revision}:{folder}/{name}.odcs.yaml"]
        shown = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if shown.returncode == 0:
            return parse_contract(shown.stdout, named)
    found = " ".join(shown.stderr.split())[:120]
    raise InputError(named, "revision", found, "a commit with the contract", "see 'git log -- moworld_ops/data_contracts'")
