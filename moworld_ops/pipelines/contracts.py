"""Finds a contract by name, by file, or at a revision of the repository."""

import subprocess
from pathlib import Path

from moworld.errors import InputError
from moworld_ops.components.platform.source import clone_root
from moworld_ops.data_contracts.load import Contract, load_contract, parse_contract


def find_contract(named: str) -> Contract:
    """Returns the contract NAME, FILE.yaml or NAME@REVISION; raises InputError if there is none, or it is no contract."""
    if named.endswith((".yaml", ".yml")):
        path = Path(named)
        if not path.is_file():
            raise InputError(named, "", "no such file", "a contract", "check the path")
        return parse_contract(path.read_text(encoding="utf-8", errors="replace"), named)
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
