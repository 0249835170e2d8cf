"""Contracts: ODCS 3.1 YAML read into the few facts that checks are built from. The YAML is the only source of thresholds."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from moworld.errors import InputError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Rule:
    """A bound on a column: a present value lies in [minimum, maximum]; None is open. `required` and `unique` stand for themselves."""

    name: str
    column: str
    kind: str  # required, unique, range
    minimum: float | None = None
    maximum: float | None = None

    @property
    def threshold(self) -> str:
        if self.kind != "range":
            return self.kind
        return f"{'-inf' if self.minimum is None else self.minimum} to {'inf' if self.maximum is None else self.maximum}"


@dataclass(frozen=True)
class Contract:
    """A contract by name and version, its rules, and the share of rejected rows above which a batch fails."""

    name: str
    version: str
    rules: tuple[Rule, ...]
    max_rejected_share: float


@cache
def load_contract(name: str) -> Contract:
    """Read `NAME.odcs.yaml`. Raises InputError for an unknown name or a file that the ODCS model refuses."""
    from open_data_contract_standard.model import OpenDataContractStandard

    path = FOLDER / f"{name}.odcs.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.name.split(".")[0] for p in FOLDER.glob("*.odcs.yaml")))
        raise InputError("contract", name, "no such contract", f"one of {known}", "check the name")
    text = path.read_text(encoding="utf-8")
    try:
        OpenDataContractStandard.from_string(text)
    except Exception as error:  # the standard's own model names the field; any failure of it is bad input here
        raise InputError(path, "", str(error)[:200], "ODCS v3.1.0", "mend the contract") from None
    values = yaml.safe_load(text)
    rules = []
    for column in values["schema"][0]["properties"]:
        rules += [Rule(f"{column['name']}-{kind}", column["name"], kind) for kind in ("required", "unique") if column.get(kind)]
        for quality in column.get("quality", []):
            bounds = quality.get("arguments", {})
            rules.append(Rule(quality["id"], column["name"], "range", bounds.get("minimum"), bounds.get("maximum")))
    share = {p["property"]: p["value"] for p in values.get("customProperties", [])}["maxRejectedShare"]
    return Contract(name, values["version"], tuple(rules), float(share))
