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
HEAD = "ledger_head"  # tag of a registered model: hash of its last line in the ledger


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
        self, name: str, model: Path, evidence: list[Path], metrics: dict[str, float], params: dict[str, str], tags: dict[str, str]
    ) -> Version:
        """Log a model folder with its evidence (files and folders, among them the folder `evidence` with metrics.json), metrics and lineage tags (tags "run" and "model_sha256" are needed) as the next version, alias
        `candidate`. The same model of the same run is registered once: a repeated step gets the version it made."""
        for version in self.versions(name):
            if version.tags.get("run") == tags["run"] and version.tags.get("model_sha256") == tags["model_sha256"]:
                return version
        run = self.client.create_run(self._experiment(), run_name=tags["run"], tags=tags)
        self._log(run.info.run_id, metrics, params, tags)
        self.client.log_artifacts(run.info.run_id, str(model), "model")
        for path in evidence:
            if path.is_dir():
                self.client.log_artifacts(run.info.run_id, str(path), path.name)
            else:
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
        """The version's model on the local disk, with its evidence and signatures beside it; fetched anew when they lie elsewhere."""
        if version.source.startswith("file://"):
            from urllib.parse import unquote, urlparse

            return Path(unquote(urlparse(version.source).path))
        target = home() / "models" / version.run_id
        target.mkdir(parents=True, exist_ok=True)
        self.client.download_artifacts(version.run_id, "", str(target))
        return target / "model"

    def metrics(self, version: Version) -> dict[str, Any]:
        """What benchmark measured for a version, as register stored it."""
        from moworld.files import read_json

        return dict(read_json(self.folder_of(version).parent / "evidence" / "metrics.json"))

    def champion(self, name: str) -> Version | None:
        """The promoted version, or None."""
        return next((version for version in self.versions(name) if "champion" in version.aliases), None)

    def promote(self, name: str, version: str, by: str, verdict: list[dict[str, Any]], override: str = "") -> Version:
        """Move alias `champion` and write the promotion to the ledger; promoting the champion again changes nothing.

        override: the reason why gates that failed in `verdict` do not count
        """
        with ledger.locked(self.ledger):
            before = self._settled(name)
            if before == self.version(name, version).version:
                return self.version(name, version)
            self._move(self.version(name, version), before, "promote", by, {"verdict": verdict, "override": override})
            return self.version(name, version)

    def rollback(self, name: str, by: str, reason: str) -> Version:
        """Give alias `champion` back to the version that held it before. Raises InputError where the ledger knows none."""
        with ledger.locked(self.ledger):
            now, standing = self._settled(name), self._standing(name)
            if len(standing) < 2:
                wanted, mend = "a version that was promoted before", "see 'moworld release list'"
                raise InputError(f"model {name}", "champion", "no earlier champion", wanted, mend)
            self._move(self.version(name, standing[-2]), now, "rollback", by, {"reason": reason})
            return self.version(name, standing[-2])

    def entries(self, name: str) -> list[dict[str, Any]]:
        """The ledger's lines of a model. Raises InputError where the chain is broken, or lines at its end are missing."""
        entries = [entry for entry in ledger.verify(self.ledger) if entry["model"] == name]
        head = self.client.get_registered_model(name).tags.get(HEAD) if self._known(name) else None
        if head not in [None, *(entry["hash"] for entry in entries)] or (head is None and len(entries) > 1):
            found, wanted = f"{len(entries)} lines without the one that was written last", f"a line with hash {head}"
            raise InputError(self.ledger, f"model {name}", found, wanted, "restore the ledger from a copy")
        return entries

    def _standing(self, name: str) -> list[str]:
        """Versions in the order of their promotion, those rolled back taken away."""
        stack: list[str] = []
        for entry in self.entries(name):
            stack = stack[:-1] if entry["action"] == "rollback" else [*stack, entry["version"]]
        return stack

    def _settled(self, name: str) -> str | None:
        """The champion by the ledger's last line, to which the alias is brought first: the one who wrote it may have died before."""
        entries = self.entries(name)
        if not entries:
            return None
        self._point(name, entries[-1])
        return str(entries[-1]["version"])

    def _move(self, chosen: Version, previous: str | None, action: str, by: str, facts: dict[str, Any]) -> None:
        entry = {"action": action, "model": chosen.name, "version": chosen.version, "previous": previous, "by": by,
                 "model_sha256": chosen.tags.get("model_sha256", ""), **facts}  # fmt: skip
        self._point(chosen.name, ledger.append(self.ledger, entry))

    def _point(self, name: str, entry: dict[str, Any]) -> None:
        """Make MLflow say what a line of the ledger says."""
        known = self.client.get_registered_model(name)
        if str(known.aliases.get("champion")) != entry["version"]:
            self.client.set_registered_model_alias(name, "champion", entry["version"])
        if str(known.aliases.get("candidate")) == entry["version"]:
            self.client.delete_registered_model_alias(name, "candidate")
        if known.tags.get(HEAD) != entry["hash"]:
            self.client.set_registered_model_tag(name, HEAD, entry["hash"])

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
