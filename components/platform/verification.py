"""Is a registered version still what was signed, measured and promoted? Every answer starts from the signatures."""

from pathlib import Path
from typing import Any

from components.platform import signing
from components.platform.registry import HEAD, ModelRegistry, Version, model_folder, model_hash
from moworld.errors import InputError
from moworld.files import read_json

MEND = "restore it from a copy, or register the model again"


def verify_version(registry: ModelRegistry, version: Version) -> Path:
    """Model and evidence against their signatures; MLflow's tags and metrics against the signed evidence. Returns the model that was read.

    Raises InputError for the first that does not agree.
    """
    model = registry.folder_of(version)
    for folder in (model, model.parent / "evidence"):
        signing.verify(folder, model.parent / f"{folder.name}.sig")
    signed = read_json(model.parent / "evidence" / "evidence.json")
    subject = f"{version.name} version {version.version}"
    _agree(subject, "hash of the model", model_hash(model), signed["model_sha256"])
    for key, value in signed.items():
        _agree(subject, f"tag {key}", version.tags.get(key), value)
    logged, measured = registry.client.get_run(version.run_id).data.metrics, flat(read_json(model.parent / "evidence" / "metrics.json"))
    for key in sorted(measured.keys() | logged.keys()):
        _agree(subject, f"metric {key}", logged.get(key), measured.get(key))
    return model


def verified_folder(reference: str) -> Path:
    """`model_folder`, where only what is signed will do: a registered version by `verify_version`, a folder by the signature FOLDER.sig beside it.

    Raises InputError for a model without a signature, and for one that is not what was signed.
    """
    if reference and "/" not in reference and not Path(reference).exists():
        model_folder(reference)  # names what is registered where this is not
        registry = ModelRegistry()
        return verify_version(registry, registry.find(reference))
    folder = model_folder(reference).resolve()
    signing.verify(folder, folder.parent / f"{folder.name}.sig")
    return folder


def facts_of(registry: ModelRegistry, version: Version) -> dict[str, str]:
    """What gates on facts ask (moworld.evaluation.gates.FACTS): of signatures now, of contracts and licences as signed."""
    try:
        verify_version(registry, version)
        signature = "holds"
    except InputError as error:
        signature = str(error)
    contract = "passed" if version.tags.get("contract_version") else "unknown"
    return {"signature": signature, "contract": contract, "licences": version.tags.get("licences", "")}


def verify_release(registry: ModelRegistry, version: Version) -> int:
    """`verify_version`, then the ledger's chain and its end, and the alias against its last line. Returns the ledger's lines of this model.

    Raises InputError for the first that does not agree.
    """
    verify_version(registry, version)
    entries = registry.entries(version.name)
    model, last = registry.client.get_registered_model(version.name), entries[-1] if entries else {}
    _agree(
        f"model {version.name}", "alias champion", str(model.aliases.get("champion")), str(last.get("version")), "the ledger's last line"
    )
    _agree(f"model {version.name}", f"tag {HEAD}", model.tags.get(HEAD), last.get("hash"), "the ledger's last line")
    for entry in entries:
        if entry["version"] == version.version:
            _agree(registry.ledger, f"line {entry['index'] + 1}, model_sha256", entry["model_sha256"], version.tags["model_sha256"])
    return len(entries)


def flat(values: Any, prefix: str = "") -> dict[str, float]:
    """The numbers of nested metrics under dotted names; MLflow takes no others."""
    numbers: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            numbers.update(flat(value, f"{name}."))
        elif isinstance(value, int | float) and value == value and abs(value) != float("inf"):
            numbers[name] = float(value)
    return numbers


def _agree(subject: str | Path, field: str, found: Any, wanted: Any, source: str = "the signed evidence") -> None:
    if found != wanted:
        raise InputError(subject, field, found, f"{wanted}, as {source} has it", MEND)
