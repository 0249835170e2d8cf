"""Verifies that a registered version is unchanged since it was signed, measured and promoted. Each check starts from the signatures."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moworld.errors import InputError, IntegrityError
from moworld.files import VIDEO_SUFFIXES, sha256_of_hashes
from moworld_ops.components.platform import keys, signing
from moworld_ops.components.platform.artifacts import Artifacts, LocalArtifacts
from moworld_ops.components.platform.keys import PublicKey
from moworld_ops.components.platform.ledger import accepted_keys, adoption, champion_of, with_former_evidence
from moworld_ops.components.platform.registry import HEAD, UNAPPLIED, ModelRegistry, Version, is_unapplied, model_folder

UNTAGGED = ("model", "version", "images")  # facts of the signed evidence that MLflow has in another form
FORMER = "evidence of a version registered before evidence named its model"


@dataclass(frozen=True)
class Verified:
    """What the signatures of a version prove: its evidence (evidence.json), its metrics (metrics.json) and the hash of its model."""

    evidence: dict[str, Any]
    metrics: dict[str, Any]
    model_sha256: str


def verify_version(registry: ModelRegistry, version: Version, model: Artifacts | None = None) -> Verified:
    """Checks model and evidence against their signatures, MLflow's tags and metrics against the evidence.

    model: where to read the model's files; default: where the registry has them. Each is read once.
    Raises IntegrityError for the first difference, InputError if there is no key to verify with.
    """
    artifacts, accepted, subject = registry.artifacts(version), accepted_signers(registry), f"{version.name} version {version.version}"
    hashes = {}
    for part, files in (("evidence", artifacts.at("evidence")), ("model", model or artifacts.at("model"))):
        expected = signing.signed_hashes(subject, _read(artifacts, f"{part}.sig"), accepted)
        hashes[part] = signing.compare(f"{subject}, {part}", files, expected)
    signed, metrics = (_json(subject, artifacts, f"evidence/{name}") for name in ("evidence.json", "metrics.json"))
    digest = sha256_of_hashes(hashes["model"])
    _require_equal(subject, "hash of the model", digest, signed.get("model_sha256"))
    _require_identity(registry, version, signed, digest)
    for key, value in signed.items():
        if key in version.tags or key not in UNTAGGED:
            _require_equal(subject, f"tag {key}", version.tags.get(key), value)
    logged, measured = registry.store.metrics(version.run_id), flat(metrics)
    for key in sorted(measured.keys() | logged.keys()):
        _require_equal(subject, f"metric {key}", logged.get(key), measured.get(key))
    return Verified(signed, metrics, digest)


def is_file_reference(reference: str) -> bool:
    """Returns whether a reference is meant as a file: it exists, or has a suffix or directory that no model's name has."""
    return reference.lower().endswith((*VIDEO_SUFFIXES, ".json")) or (bool(reference) and Path(reference).is_file())


def verified_folder(reference: str) -> Path:
    """Returns `model_folder(reference)` after verification: `verify_version` for a registered version, FOLDER.sig for a folder.

    Raises InputError for a model without a signature, IntegrityError for one that differs from what was signed.
    """
    if reference and "/" not in reference and not Path(reference).exists() and ModelRegistry().exists:
        registry = ModelRegistry()
        if reference.partition("@")[0] in registry.names():
            version = released(registry, reference)
            folder = registry.folder_of(version)  # a remote model is downloaded once, and its copy verified
            verify_version(registry, version, LocalArtifacts(folder))
            return folder
    folder = model_folder(reference).resolve()
    signing.verify(folder, folder.parent / f"{folder.name}.sig")
    return folder


def released(registry: ModelRegistry, reference: str) -> Version:
    """Returns a version as `ModelRegistry.find`, for something that serves or measures it.

    Raises IntegrityError if it is named by alias `champion` and the ledger has another champion. A machine that cannot read the registry's
    ledger has no lines to compare with; there a version's number is the safe name.
    """
    version = registry.find(reference)
    lines = [entry for entry in registry.ledger.entries() if entry["model"] == version.name]
    if reference.partition("@")[2] in ("", "champion") and (champion := champion_of(lines)):
        _require_equal(f"model {version.name}", "alias champion", version.version, champion, "the ledger", adoption(version.name))
    return version


def recorded(registry: ModelRegistry, reference: str) -> Version:
    """Returns a version as `ModelRegistry.find`, with the ledger's champion for a champion's name, wherever the alias is."""
    name, at, which = reference.partition("@")
    if (which == "champion" or not at) and registry.model(name) and (champion := champion_of(registry.entries(name))):
        return registry.version(name, champion)
    return registry.find(reference)


def verify_evidence(registry: ModelRegistry, version: Version) -> Verified:
    """Returns what the signed evidence of a version says, without reading its model. Raises as `verify_version`."""
    artifacts, subject = registry.artifacts(version), f"{version.name} version {version.version}"
    expected = signing.signed_hashes(subject, _read(artifacts, "evidence.sig"), accepted_signers(registry))
    signing.compare(f"{subject}, evidence", artifacts.at("evidence"), expected)
    signed, metrics = (_json(subject, artifacts, f"evidence/{name}") for name in ("evidence.json", "metrics.json"))
    return Verified(signed, metrics, str(signed.get("model_sha256", "")))


def gate_facts(verified: Verified | InputError) -> dict[str, str]:
    """Returns the facts for gates (moworld.evaluation.gates.FACTS) from what was verified, or from the error of the verification."""
    if isinstance(verified, InputError):
        return {"signature": str(verified), "contract": "unknown", "licences": ""}
    contract = "passed" if verified.evidence.get("contract_version") else "unknown"
    return {"signature": "holds", "contract": contract, "licences": str(verified.evidence.get("licences", ""))}


def verify_release(registry: ModelRegistry, version: Version) -> int:
    """Runs `verify_version`, then checks the ledger's chain and its end, and the alias. Returns the number of ledger lines of this model.

    Raises IntegrityError for the first difference.
    """
    verify_version(registry, version)
    entries = registry.entries(version.name)
    if os.environ.get(keys.PUBLIC) and not any("key" in entry for entry in registry.ledger.entries()):
        fix = f"restore the ledger from a copy of the database, or unset {keys.PUBLIC}"
        raise IntegrityError(registry.ledger.where, "line 1", "no signed line", f"one by a key of {keys.PUBLIC}", fix)
    model, last = registry.model(version.name), entries[-1] if entries else {}
    if model is None:
        raise InputError(f"model {version.name}", "", "no such model", "a registered model", "see 'moworld release list'")
    subject, source = f"model {version.name}", "the ledger's last line"
    if is_unapplied(model, entries):
        found = f"version {model.aliases.get('champion') or 'none'}, without the ledger's last line, {last['action']} of version {last['version']}"
        raise IntegrityError(subject, "alias champion", found, "that line in MLflow, too", UNAPPLIED)
    _require_equal(subject, "alias champion", str(model.aliases.get("champion")), str(last.get("version")), source, adoption(version.name))
    _require_equal(subject, f"tag {HEAD}", model.tags.get(HEAD), last.get("hash"), source)
    for entry in entries:
        if entry["version"] == version.version and "model_sha256" in entry:
            field = f"line {entry['index'] + 1}, model_sha256"
            _require_equal(registry.ledger.where, field, entry["model_sha256"], version.tags["model_sha256"])
    return len(entries)


def flat(values: Any, prefix: str = "") -> dict[str, float]:
    """Returns the finite numbers of nested metrics under dotted names, the form that MLflow accepts."""
    numbers: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            numbers.update(flat(value, f"{name}."))
        elif isinstance(value, int | float) and abs(value) <= sys.float_info.max:  # also omits NaN, and integers that are no float
            numbers[name] = float(value)
    return numbers


def accepted_signers(registry: ModelRegistry) -> Sequence[PublicKey]:
    """Returns the keys whose signatures count: those of the registry's ledger and of MOWORLD_SIGNING_PUBLIC_KEY, else this machine's."""
    listed = accepted_keys(registry.ledger.entries())
    return [*listed, *keys.pinned_keys()] if listed else keys.configured_keys()


def _require_identity(registry: ModelRegistry, version: Version, signed: dict[str, Any], digest: str) -> None:
    """Raises IntegrityError unless the evidence names this model and version. Evidence of old names none: the ledger lists its versions."""
    subject = f"{version.name} version {version.version}"
    if "model" in signed:
        for key, value in (("model", version.name), ("version", version.version)):
            _require_equal(subject, f"{key} in the signed evidence", signed.get(key), value, "the registry")
        return
    known = with_former_evidence(registry.ledger.entries())
    if known is not None and known.get(f"{version.name}@{version.version}") != digest:
        fix = "register the model under its own name"
        raise IntegrityError(subject, "evidence.json", FORMER, "evidence that names model and version", fix)


def _read(artifacts: Artifacts, name: str) -> bytes:
    with artifacts.open(name) as stream:
        return bytes(stream.read())


def _json(subject: str, artifacts: Artifacts, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(_read(artifacts, name)))
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(subject, name, error, "a JSON object", "register the model again") from None


def _require_equal(subject: str, field: str, found: Any, expected: Any, source: str = "the signed evidence", fix: str = "") -> None:
    if found != expected:
        fix = fix or "restore it from a copy, or register the model again"
        raise IntegrityError(subject, field, found, f"{expected}, as in {source}", fix)
