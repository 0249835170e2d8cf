"""Sign a model and make it a version of the registry, with its metrics and the lineage back to the clips."""

import os
import shutil
from pathlib import Path
from typing import Any

from components.platform import signing
from components.platform.images import image
from components.platform.registry import ModelRegistry, RegistrySettings, model_hash
from components.platform.verification import flat, verify_version
from moworld.data.features import LICENCES
from moworld.errors import InputError
from moworld.files import atomic_folder, read_json, write_json


def register(model: str, metrics: str, features: str, out: str, settings: dict[str, Any], run: str) -> dict[str, Any]:
    """Register the folder `model` under `settings.name` as alias `candidate`.

    metrics:  folder with metrics.json, as benchmark writes it
    features: feature shards, whose revision.json names the data revision and the contract version
    out:      folder for registration.json, evidence (what benchmark wrote and evidence.json, the lineage) and the signatures of both
    run:      name of the run; the same model of the same run is registered once
    """
    chosen = RegistrySettings(**settings)
    if not Path(model, "model_index.json").is_file():
        raise InputError(model, "model_index.json", "no such file", "a model folder", "pass the folder that quantize wrote")
    values = read_json(Path(metrics, "metrics.json"))
    tags = {"run": run, "model_sha256": model_hash(Path(model)), **lineage(Path(features))}
    with atomic_folder(out) as target:
        evidence, signatures = target / "evidence", [target / "model.sig", target / "evidence.sig"]
        shutil.copytree(metrics, evidence)
        write_json(evidence / "evidence.json", tags)
        if (record := Path(os.environ.get("MOWORLD_RUN_FOLDER", ""), "run.json")).is_file():
            shutil.copyfile(record, evidence / "run.json")  # settings, arguments and seeds, as the run stood when it registered
        for folder, signature in zip((Path(model), evidence), signatures, strict=True):
            signing.sign(folder, signature)
        registry = ModelRegistry(chosen.tracking)
        version = registry.register(chosen.name, Path(model), [*signatures, evidence], flat(values), {"registry": chosen.name}, tags)
        verify_version(registry, version)
        registration = {"name": version.name, "version": version.version, "tracking": chosen.tracking, **tags}
        write_json(target / "registration.json", registration)
    return registration


def lineage(features: Path) -> dict[str, str]:
    """Tags that lead from the model back to its origin: data revision, contract version, licences of the data, git commit, image."""
    found = read_json(features / "revision.json") if (features / "revision.json").is_file() else {}
    return {
        "data_revision": str(found.get("revision", "")),
        "contract_version": str(found.get("contract_version", "")),
        "licences": ", ".join(read_json(features / LICENCES)) if (features / LICENCES).is_file() else "",
        "git_commit": os.environ.get("MOWORLD_GIT_COMMIT", ""),
        "image": image("data"),
    }
