"""Hold a candidate against the gates and the champion; move alias `champion`, or refuse with the failing gate."""

from pathlib import Path
from typing import Any

from components.platform.registry import ModelRegistry
from components.platform.steps import Refused
from components.platform.verification import facts_of
from moworld.evaluation.gates import Gate, failures, verdict
from moworld.files import atomic_folder, read_json, write_json


def promote(registration: str, metrics: str, out: str, gates: list[dict[str, Any]], run: str) -> dict[str, Any]:
    """Promote the registered version when every gate passes.

    registration: folder with registration.json; metrics: folder with metrics.json; out: folder for verdict.json
    gates:        section `gates` of the profile
    Raises Refused, naming each failing gate with value and threshold.
    """
    registered = read_json(Path(registration, "registration.json"))
    registry = ModelRegistry(registered["tracking"])
    name, version = registered["name"], registered["version"]
    champion = registry.champion(name)
    before = registry.metrics(champion) if champion and champion.version != version else None
    facts = facts_of(registry, registry.version(name, version))
    rows = verdict(read_json(Path(metrics, "metrics.json")), before, [Gate(**gate) for gate in gates], facts)
    summary = {"name": name, "version": version, "champion_before": champion.version if champion else None, "gates": rows}
    if words := failures(rows):
        raise Refused(f"{name} version {version} was not promoted: {words}", {**summary, "promoted": False})
    promoted = registry.promote(name, version, by=run, verdict=rows)
    summary = {**summary, "promoted": True, "alias": "champion", "aliases": list(promoted.aliases)}
    with atomic_folder(out) as target:
        write_json(target / "verdict.json", summary)
    return summary
