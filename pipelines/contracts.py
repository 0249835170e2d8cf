"""Finds a contract as a steward names it: by name, by file, or as it stood at a revision of this repository."""

import subprocess
from pathlib import Path

from components.platform.images import ROOT
from data_contracts.load import Contract, load_contract, parse_contract
from moworld.errors import InputError


def find_contract(named: str) -> Contract:
    """The contract NAME, FILE.yaml or NAME@REVISION. Raises InputError where there is none, or what is there is no contract."""
    if named.endswith((".yaml", ".yml")):
        path = Path(named)
        if not path.is_file():
            raise InputError(named, "", "no such file", "a contract", "check the path")
        return parse_contract(path.read_text(encoding="utf-8"), named)
    name, at, revision = named.partition("@")
    if not at:
        return load_contract(name)
    shown = subprocess.run(
        ["git", "show", f"{revision}:data_contracts/{name}.odcs.yaml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if shown.returncode:
        found = " ".join(shown.stderr.split())[:120]
        raise InputError(named, "revision", found, "a commit that holds the contract", "see 'git log -- data_contracts'")
    return parse_contract(shown.stdout, named)
