"""Evaluates the gates for a candidate and, if all pass, moves alias `champion` to it."""

from pathlib import Path
from typing import Any

from moworld.evaluation.gates import Gate, failures, verdict
from moworld.files import atomic_folder, read_json, write_json
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.components.platform.steps import Refused
from moworld_ops.components.platform.verification import gate_facts


def promote(registration: str, metrics: str, out: str, gates: list[dict[str, Any]], run: str) -> dict[str, Any]:
    """Promotes the registered version if every gate passes; returns verdict.json.

    registration: folder with registration.json
    metrics:      folder with metrics.json
    out:          folder for verdict.json
    gates:        section `gates` of the profile
    Raises Refused with the value and threshold of each failed gate.
    """
    registered = read_json(Path(registration, "registration.json"))
    registry = ModelRegistry(registered["tracking"])
    name, version = registered["name"], registered["version"]
    champion = registry.champion(name)
    before = registry.metrics(champion) if champion and champion.version != version else None
    facts = gate_facts(registry, registry.version(name, version))
    rows = verdict(read_json(Path(metrics, "metrics.json")), before, [Gate(**gate) for gate in gates], facts)
    summary = {"name": name, "version": version, "champion_before": champion.version if champion else None, "gates": rows}
    if failed := failures(rows):
        raise Refused(f"{name} version {version} was not promoted: {failed}", {**summary, "promoted": False})
    promoted = registry.promote(name, version, by=run, verdict=rows)
    summary |= {"promoted": True, "alias": "champion", "aliases": list(promoted.aliases)}
    with atomic_folder(out) as target:
        write_json(target / "verdict.json", summary)
    return summary
