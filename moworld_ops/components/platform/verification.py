"""Verifies that a registered version is unchanged since it was signed, measured and promoted. Each check starts from the signatures."""

from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.files import read_json, sha256_tree
from moworld_ops.components.platform import signing
from moworld_ops.components.platform.registry import HEAD, ModelRegistry, Version, model_folder


def verify_version(registry: ModelRegistry, version: Version) -> Path:
    """Checks model and evidence against their signatures, MLflow's tags and metrics against the evidence. Returns the checked model.

    Raises InputError for the first difference.
    """
    model = registry.folder_of(version)
    evidence = model.parent / "evidence"
    for folder in (model, evidence):
        signing.verify(folder, model.parent / f"{folder.name}.sig")
    signed = read_json(evidence / "evidence.json")
    subject = f"{version.name} version {version.version}"
    _require_equal(subject, "hash of the model", sha256_tree(model), signed["model_sha256"])
    for key, value in signed.items():
        _require_equal(subject, f"tag {key}", version.tags.get(key), value)
    logged, measured = registry.client.get_run(version.run_id).data.metrics, flat(read_json(evidence / "metrics.json"))
    for key in sorted(measured.keys() | logged.keys()):
        _require_equal(subject, f"metric {key}", logged.get(key), measured.get(key))
    return model


def verified_folder(reference: str) -> Path:
    """Returns `model_folder(reference)` after verification: `verify_version` for a registered version, FOLDER.sig for a folder.

    Raises InputError for a model without a signature, and for one that differs from what was signed.
    """
    folder = model_folder(reference)
    if reference and "/" not in reference and not Path(reference).exists():
        registry = ModelRegistry()
        return verify_version(registry, registry.find(reference))
    folder = folder.resolve()
    signing.verify(folder, folder.parent / f"{folder.name}.sig")
    return folder


def gate_facts(registry: ModelRegistry, version: Version) -> dict[str, str]:
    """Returns the facts for gates (moworld.evaluation.gates.FACTS): signatures as verified now, contracts and licences as signed."""
    try:
        verify_version(registry, version)
        signature = "holds"
    except InputError as error:
        signature = str(error)
    contract = "passed" if version.tags.get("contract_version") else "unknown"
    return {"signature": signature, "contract": contract, "licences": version.tags.get("licences", "")}


def verify_release(registry: ModelRegistry, version: Version) -> int:
    """Runs `verify_version`, then checks the ledger's chain and its end, and the alias. Returns the number of ledger lines of this model.

    Raises InputError for the first difference.
    """
    verify_version(registry, version)
    entries = registry.entries(version.name)
    model, last = registry.client.get_registered_model(version.name), entries[-1] if entries else {}
    subject, source = f"model {version.name}", "the ledger's last line"
    _require_equal(subject, "alias champion", str(model.aliases.get("champion")), str(last.get("version")), source)
    _require_equal(subject, f"tag {HEAD}", model.tags.get(HEAD), last.get("hash"), source)
    for entry in entries:
        if entry["version"] == version.version:
            field = f"line {entry['index'] + 1}, model_sha256"
            _require_equal(registry.ledger, field, entry["model_sha256"], version.tags["model_sha256"])
    return len(entries)


def flat(values: Any, prefix: str = "") -> dict[str, float]:
    """Returns the finite numbers of nested metrics under dotted names, the form that MLflow accepts."""
    numbers: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            numbers.update(flat(value, f"{name}."))
        elif isinstance(value, int | float) and value == value and abs(value) != float("inf"):
            numbers[name] = float(value)
    return numbers


def _require_equal(subject: str | Path, field: str, found: Any, expected: Any, source: str = "the signed evidence") -> None:
    if found != expected:
        raise InputError(subject, field, found, f"{expected}, as in {source}", "restore it from a copy, or register the model again")
