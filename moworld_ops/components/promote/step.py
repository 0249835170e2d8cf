"""Evaluates the gates for a candidate and, if all pass, moves alias `champion` to it."""

import json
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.evaluation.gates import Gate
from moworld.files import atomic_folder, read_json, write_json
from moworld_ops.components.platform import releases
from moworld_ops.components.platform.registry import ModelRegistry


def promote(registration: str, metrics: str, out: str, gates: list[dict[str, Any]], run: str) -> dict[str, Any]:
    """Promotes the registered version if every gate passes; returns verdict.json.

    registration: folder with registration.json
    metrics:      folder with metrics.json, which must be what was signed at registration
    out:          folder for verdict.json
    gates:        section `gates` of the profile
    Raises Refused with the value and threshold of each failed gate, IntegrityError for a version that was changed.
    """
    registered = read_json(Path(registration, "registration.json"))
    registry = ModelRegistry(registered["tracking"], registered.get("database", ""))
    version = registry.version(registered["name"], registered["version"])
    if json.dumps(read_json(Path(metrics, "metrics.json"))) != json.dumps(registry.metrics(version)):  # as text: NaN differs from itself
        fix = "pass the output of benchmark that was registered"
        raise InputError(metrics, "metrics.json", "other metrics", f"those of {version.name} version {version.version}", fix)
    promoted, decision = releases.promote(registry, version, [Gate(**gate) for gate in gates], run=run)
    summary: dict[str, Any] = {"name": version.name, "version": version.version, "champion_before": decision.champion, "gates": decision.rows}
    summary |= {"promoted": True, "alias": "champion", "aliases": list(promoted.aliases)}
    with atomic_folder(out) as target:
        write_json(target / "verdict.json", summary)
    return summary
