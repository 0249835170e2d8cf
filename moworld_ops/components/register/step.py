"""Signs a model and registers it as a version, with its metrics and its lineage back to the clips."""

import shutil
from pathlib import Path
from typing import Any

from moworld.data.features import LICENCES
from moworld.errors import InputError
from moworld.files import atomic_folder, read_json, sha256_tree, write_json
from moworld_ops.components.platform import signing
from moworld_ops.components.platform.context import context
from moworld_ops.components.platform.images import image, lock_entries
from moworld_ops.components.platform.registry import ModelRegistry, RegistrySettings
from moworld_ops.components.platform.verification import flat, verify_version


def register(model: str, metrics: str, features: str, out: str, settings: dict[str, Any], run: str) -> dict[str, Any]:
    """Registers the folder `model` under `settings.name` with alias `candidate`; returns registration.json.

    metrics:  folder with metrics.json, written by step benchmark
    features: feature shards; revision.json has the data revision and the contract version
    out:      folder for registration.json, the evidence (output of benchmark and lineage in evidence.json) and both signatures
    run:      name of the run; the same model of the same run is registered once
    """
    chosen = RegistrySettings(**settings)
    if not Path(model, "model_index.json").is_file():
        raise InputError(model, "model_index.json", "no such file", "a model folder", "pass the folder that quantize wrote")
    values = read_json(Path(metrics, "metrics.json"))
    tags = {"run": run, "model_sha256": sha256_tree(model), "profile": chosen.profile, **lineage(Path(features), Path(model))}
    registry = ModelRegistry(chosen.tracking, chosen.database)
    registry.prepare()
    with atomic_folder(out) as target:
        version, is_new = registry.begin(chosen.name, tags)
        if is_new:
            evidence, signatures = target / "evidence", [target / "model.sig", target / "evidence.sig"]
            shutil.copytree(metrics, evidence)
            write_json(evidence / "evidence.json", {**tags, "model": version.name, "version": version.version, "images": run_images()})
            if folder := context().folder:
                shutil.copyfile(folder / "run.json", evidence / "run.json")  # settings, arguments and seeds at registration
            for folder, signature in zip((Path(model), evidence), signatures, strict=True):
                signing.sign(folder, signature)
            files = [evidence, *signatures]  # the signature of the evidence last: it marks the version as complete
            version = registry.complete(version, Path(model), files, flat(values), {"registry": chosen.name})
        verify_version(registry, version)
        registration = {"name": version.name, "version": version.version, "tracking": chosen.tracking, "database": chosen.database, **tags}
        write_json(target / "registration.json", registration)
    return registration


def run_images() -> dict[str, str]:
    """Returns the references, with digests, of the images of this run, by name; outside a local run of all images."""
    folder = context().folder
    record = read_json(folder / "run.json") if folder else {}
    return dict(record.get("images") or {name: image(name) for name in sorted(lock_entries())})


def lineage(features: Path, model: Path) -> dict[str, str]:
    """Returns tags that lead back to the origin: data revision, contract version, base weights, licences of both, code revision, image."""
    config = read_json(model / "model_index.json")
    base = config.get("base", "")
    licences = read_json(features / LICENCES) if (features / LICENCES).is_file() else []
    found = read_json(features / "revision.json") if (features / "revision.json").is_file() else {}
    return {
        "data_revision": str(found.get("revision", "")),
        "contract_version": str(found.get("contract_version", "")),
        "base": base,
        "licences": ", ".join(sorted({*licences, *([config.get("base_licence", "")] if base else [])})),
        "git_commit": context().commit,
        "image": context().image or image("data"),
    }
