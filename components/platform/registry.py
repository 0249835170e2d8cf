"""The model registry: MLflow versions with metrics and lineage, aliases `candidate` and `champion`, and the ledger beside them.

Without a tracking server, MLflow keeps a SQLite file under the state folder.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.platform import ledger
from components.platform.home import home
from moworld.errors import InputError
from moworld.files import sha256_tree
from moworld.settings import Settings

EXPERIMENT = "moworld"
ALIASES = ("candidate", "champion")


class RegistrySettings(Settings):
    """`name` of the registered model, MLflow's URI, and the folder of the data registry; both empty for those in the state folder.

    remote: where the data registry keeps its data, s3://...; empty for a folder beside it
    """

    name: str
    tracking: str = ""
    data: str = ""
    remote: str = ""


@dataclass(frozen=True)
class Version:
    """One version of a registered model; `model` is its folder (or URI), `tags` its lineage."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    source: str
    tags: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class ModelRegistry:
    """The registered models of one tracking store."""

    def __init__(self, tracking: str = "") -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        import logging

        from mlflow import MlflowClient

        for name in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.WARNING)

        self.folder = home() / "mlflow"
        uri = tracking or os.environ.get("MLFLOW_TRACKING_URI", "")
        self.local = not uri
        if self.local:
            self.folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{self.folder / 'mlflow.db'}"
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.ledger = home() / "ledger.jsonl"

    def register(
        self, name: str, model: Path, files: list[Path], metrics: dict[str, float], params: dict[str, str], tags: dict[str, str]
    ) -> Version:
        """Log a model folder with its files, metrics and lineage tags (tags "run" and "model_sha256" are needed) as the next version, alias
        `candidate`. The same model of the same run is registered once: a repeated step gets the version it made."""
        for version in self.versions(name):
            if version.tags.get("run") == tags["run"] and version.tags.get("model_sha256") == tags["model_sha256"]:
                return version
        run = self.client.create_run(self._experiment(), run_name=tags["run"], tags=tags)
        self._log(run.info.run_id, metrics, params, tags)
        self.client.log_artifacts(run.info.run_id, str(model), "model")
        for path in files:
            self.client.log_artifact(run.info.run_id, str(path))
        if not self._known(name):
            self.client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/model"
        made = self.client.create_model_version(name, source, run.info.run_id, tags=tags)
        self.client.set_registered_model_alias(name, "candidate", made.version)
        self.client.set_terminated(run.info.run_id)
        return self.version(name, str(made.version))

    def _log(self, run_id: str, metrics: dict[str, float], params: dict[str, str], tags: dict[str, str]) -> None:
        import time

        from mlflow.entities import Dataset, DatasetInput, Metric, Param

        now = int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            params=[Param(key, value[:6000]) for key, value in params.items()],
        )
        contracts = hashlib.sha256(tags.get("contract_version", "").encode()).hexdigest()[:8]  # a digest has room for 36 characters
        digest = f"{tags.get('data_revision', '')[:12]}+contracts-{contracts}"
        source = json.dumps({"registry": "dvc", "revision": tags.get("data_revision", "")})
        self.client.log_inputs(run_id, datasets=[DatasetInput(Dataset("features", digest, "dvc", source))])

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        location = (self.folder / "artifacts").as_uri() if self.local else None
        return str(self.client.create_experiment(EXPERIMENT, artifact_location=location))

    def _known(self, name: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(name) is not None
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def names(self) -> list[str]:
        """Names of the registered models."""
        return sorted(model.name for model in self.client.search_registered_models())

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, oldest first; none for an unknown name."""
        if not self._known(name):
            return []
        aliases = self.client.get_registered_model(name).aliases
        found = [self._version(one, aliases) for one in self.client.search_model_versions(f"name='{name}'")]
        return sorted(found, key=lambda version: int(version.version))

    def version(self, name: str, which: str) -> Version:
        """A version by number or alias. Raises InputError when there is none."""
        versions = self.versions(name)
        for version in versions:
            if which == version.version or which in version.aliases:
                return version
        known = ", ".join(f"{v.version} {' '.join(v.aliases)}".strip() for v in versions) or "none"
        raise InputError(f"model {name}", which, "no such version or alias", f"one of: {known}", "see 'moworld release list'")

    def find(self, reference: str) -> Version:
        """A version by NAME@ALIAS, NAME@NUMBER or NAME (its champion). Raises InputError when there is none."""
        name, _, which = reference.partition("@")
        return self.version(name, which or "champion")

    def folder_of(self, version: Version) -> Path:
        """The version's model on the local disk, fetched when it lies elsewhere."""
        if version.source.startswith("file://"):
            from urllib.parse import unquote, urlparse

            return Path(unquote(urlparse(version.source).path))
        import mlflow

        return Path(mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=str(home() / "models" / version.run_id)))

    def metrics(self, version: Version) -> dict[str, Any]:
        """What benchmark measured for a version, as register stored it."""
        from moworld.files import read_json

        folder = self.folder_of(version).parent
        return dict(read_json(folder / "metrics.json"))

    def champion(self, name: str) -> Version | None:
        """The promoted version, or None."""
        return next((version for version in self.versions(name) if "champion" in version.aliases), None)

    def promote(self, name: str, version: str, by: str, verdict: list[dict[str, Any]]) -> Version:
        """Move alias `champion` and write the promotion to the ledger; promoting the champion again changes nothing."""
        chosen, before = self.version(name, version), self.champion(name)
        if before is not None and before.version == chosen.version:
            return chosen
        self._move(chosen, before, "promote", by, verdict)
        return self.version(name, chosen.version)

    def rollback(self, name: str, by: str, reason: str) -> Version:
        """Give alias `champion` back to the version that held it before. Raises InputError where the ledger knows none."""
        now = self.champion(name)
        standing = self._standing(name)
        if now is None or len(standing) < 2:
            raise InputError(
                f"model {name}", "champion", "no earlier champion", "a version that was promoted before", "see 'moworld release list'"
            )
        chosen = self.version(name, standing[-2])
        self._move(chosen, now, "rollback", by, [], reason)
        return self.version(name, chosen.version)

    def _standing(self, name: str) -> list[str]:
        """Versions in the order of their promotion, those rolled back taken away."""
        stack: list[str] = []
        for entry in ledger.verify(self.ledger):
            if entry["model"] == name:
                stack = stack[:-1] if entry["action"] == "rollback" else [*stack, entry["version"]]
        return stack

    def _move(self, chosen: Version, before: Version | None, action: str, by: str, verdict: list[dict[str, Any]], reason: str = "") -> None:
        previous = before.version if before else None
        entry = {"action": action, "model": chosen.name, "version": chosen.version, "previous": previous, "by": by, "reason": reason,
                 "verdict": verdict, "model_sha256": chosen.tags.get("model_sha256", "")}  # fmt: skip
        # A step killed after its ledger line but before the alias comes back here: one line is enough.
        if action == "rollback" or self._standing(chosen.name)[-1:] != [chosen.version]:
            ledger.append(self.ledger, entry)
        self.client.set_registered_model_alias(chosen.name, "champion", chosen.version)
        if "candidate" in chosen.aliases:
            self.client.delete_registered_model_alias(chosen.name, "candidate")

    @staticmethod
    def _version(found: Any, aliases: dict[str, Any]) -> Version:
        own = tuple(sorted(alias for alias, number in aliases.items() if str(number) == str(found.version)))
        return Version(found.name, str(found.version), own, found.run_id, found.source, dict(found.tags))


SHIPPED = Path(__file__).parents[2] / "models" / "pocket-long"


def model_folder(reference: str, tracking: str = "") -> Path:
    """A model folder from a path, or from a registered name such as moworld-pocket@champion; the one that comes with MoWorld for "".

    Raises InputError when there is none.
    """
    path = Path(reference) if reference else SHIPPED
    if path.exists() or "/" in str(path):
        if not path.is_dir():
            raise InputError(path, "", "no such folder", "a model folder or a registered NAME@ALIAS", "check the path")
        return path
    registry = (
        ModelRegistry(tracking) if tracking or (home() / "mlflow" / "mlflow.db").exists() or os.environ.get("MLFLOW_TRACKING_URI") else None
    )
    name = reference.partition("@")[0]
    if registry is None or name not in registry.names():
        known = ", ".join(registry.names()) if registry else "none registered yet"
        raise InputError(reference, "", "no such folder or registered model", f"a model folder or one of: {known}", "check the name")
    return registry.folder_of(registry.find(reference))


def model_hash(folder: Path) -> str:
    """SHA-256 of a model folder, by which a promoted model is known."""
    return sha256_tree(folder)
