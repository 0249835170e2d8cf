"""Model registry: MLflow versions with metrics and lineage, aliases `candidate` and `champion`, and the ledger of promotions.

Without a tracking server, MLflow uses a SQLite file in the state folder.
"""

import hashlib
import json
import logging
import os
import posixpath
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from moworld.errors import InputError
from moworld.extras import require
from moworld.files import read_json
from moworld.settings import Settings
from moworld_ops.components.platform import ledger
from moworld_ops.components.platform.home import home
from moworld_ops.components.platform.source import REPOSITORY, ROOT

EXPERIMENT = "moworld"
HEAD = "ledger_head"  # tag of a registered model: hash of its last ledger line
SHIPPED = ROOT / "models" / "pocket-long"  # in a clone; the wheel has no model
MAX_PARAM_CHARACTERS = 6000  # MLflow's limit
MAX_NAME_CHARACTERS = 256  # of a registered model, in MLflow's database


def _registered_name(name: str) -> str:
    """Returns the name of a registered model. Raises ValueError for one that MLflow would refuse after the training."""
    path = posixpath.normpath(name)
    if not name.strip() or len(name) > MAX_NAME_CHARACTERS or set(name) & set("/:") or path != name or path == "." or path.startswith(".."):
        raise ValueError(f"a name that MLflow accepts: up to {MAX_NAME_CHARACTERS} characters without / and :, and not . or ..")
    return name


class RegistrySettings(Settings):
    """Section `registry` of a profile.

    name:     name of the registered model
    tracking: MLflow's URI; "" for the store in the state folder
    data:     folder of the data registry; "" for the one in the state folder
    remote:   where a new data registry keeps its data, s3://...; "" for a folder next to it
    """

    name: Annotated[str, AfterValidator(_registered_name)]
    tracking: str = ""
    data: str = ""
    remote: str = ""


@dataclass(frozen=True)
class Version:
    """One version of a registered model: `source` is the URI of its folder, `tags` its lineage."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    source: str
    tags: dict[str, str]


class ModelRegistry:
    """The registered models of one tracking store; default MLFLOW_TRACKING_URI, else the store in the state folder."""

    def __init__(self, tracking: str = "") -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        for name in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.WARNING)

        self.folder = home() / "mlflow"
        uri = tracking or os.environ.get("MLFLOW_TRACKING_URI", "")
        self.local = not uri
        if self.local:
            self.folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{self.folder / 'mlflow.db'}"
        self.uri = uri
        self.client = require("mlflow", "registry").MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.ledger = home() / "ledger.jsonl"

    def register(
        self, name: str, model: Path, evidence: list[Path], metrics: dict[str, float], params: dict[str, str], tags: dict[str, str]
    ) -> Version:
        """Logs a model folder as the next version with alias `candidate` and returns it.

        evidence: files and folders, one of them the folder `evidence` with metrics.json
        tags:     lineage; "run" and "model_sha256" are required. The same model of the same run is registered once
        """
        for version in self.versions(name):
            if all(version.tags.get(key) == tags[key] for key in ("run", "model_sha256")):
                return version
        experiment, nesting = self._place()
        run = self.client.create_run(experiment, run_name=tags["run"], tags={**tags, **nesting})
        self._log(run.info.run_id, metrics, params, tags)
        self.client.log_artifacts(run.info.run_id, str(model), "model")
        for path in evidence:
            if path.is_dir():
                self.client.log_artifacts(run.info.run_id, str(path), path.name)
            else:
                self.client.log_artifact(run.info.run_id, str(path))
        if self._model(name) is None:
            self.client.create_registered_model(name)
        created = self.client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id, tags=tags)
        self.client.set_registered_model_alias(name, "candidate", created.version)
        self.client.set_terminated(run.info.run_id)
        return self.version(name, str(created.version))

    def _log(self, run_id: str, metrics: dict[str, float], params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, Metric, Param

        now, revision = int(time.time() * 1000), tags.get("data_revision", "")
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            params=[Param(key, value[:MAX_PARAM_CHARACTERS]) for key, value in params.items()],
        )
        contracts = hashlib.sha256(tags.get("contract_version", "").encode()).hexdigest()[:8]
        digest = f"{revision[:12]}+contracts-{contracts}"  # MLflow allows 36 characters
        dataset = Dataset("features", digest, "dvc", json.dumps({"registry": "dvc", "revision": revision}))
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset)])

    def _place(self) -> tuple[str, dict[str, str]]:
        """Returns the experiment of a new run, and the tags that make it a child of the run that KFP 2.17 has made of this task.

        KFP names its run in the container's environment. It closes that run itself, so nothing is written to it. Only runs of one
        tracking server and one experiment can be nested; elsewhere the run has no parent.
        """
        parent, experiment = os.environ.get("MLFLOW_RUN_ID", ""), os.environ.get("MLFLOW_EXPERIMENT_ID", "")
        if not (parent and experiment) or self.uri != os.environ.get("MLFLOW_TRACKING_URI", ""):
            return self._experiment(), {}
        return experiment, {"mlflow.parentRunId": parent}

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        location = (self.folder / "artifacts").as_uri() if self.local else None
        return str(self.client.create_experiment(EXPERIMENT, artifact_location=location))

    def _model(self, name: str) -> Any:
        """Returns MLflow's registered model with its aliases and tags, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def names(self) -> list[str]:
        """Returns the names of the registered models."""
        return sorted(model.name for model in self.client.search_registered_models())

    def versions(self, name: str) -> list[Version]:
        """Returns all versions of a model, oldest first; [] for an unknown name."""
        model = self._model(name)
        if model is None:
            return []
        aliases: dict[str, list[str]] = {}
        for alias, number in sorted(model.aliases.items()):
            aliases.setdefault(str(number), []).append(alias)
        versions = []
        for found in self.client.search_model_versions(f"name='{name}'"):
            number = str(found.version)
            versions.append(Version(name, number, tuple(aliases.get(number, ())), str(found.run_id), str(found.source), dict(found.tags)))
        return sorted(versions, key=lambda version: int(version.version))

    def version(self, name: str, which: str) -> Version:
        """Returns a version by number or alias. Raises InputError if there is none."""
        versions = self.versions(name)
        for version in versions:
            if which == version.version or which in version.aliases:
                return version
        known = ", ".join(f"{v.version} {' '.join(v.aliases)}".strip() for v in versions) or "none"
        raise InputError(f"model {name}", which, "no such version or alias", f"one of: {known}", "see 'moworld release list'")

    def find(self, reference: str) -> Version:
        """Returns a version by NAME@ALIAS, NAME@NUMBER or NAME (its champion). Raises InputError if there is none."""
        name, _, which = reference.partition("@")
        return self.version(name, which or "champion")

    def folder_of(self, version: Version) -> Path:
        """Returns the version's model folder, with evidence and signatures next to it. Remote artifacts are downloaded on each call."""
        if version.source.startswith("file://"):
            from urllib.parse import unquote, urlparse

            return Path(unquote(urlparse(version.source).path))
        target = home() / "models" / version.run_id
        target.mkdir(parents=True, exist_ok=True)
        self.client.download_artifacts(version.run_id, "", str(target))
        return target / "model"

    def metrics(self, version: Version) -> dict[str, Any]:
        """Returns the metrics that step benchmark measured for a version."""
        return dict(read_json(self.folder_of(version).parent / "evidence" / "metrics.json"))

    def champion(self, name: str) -> Version | None:
        """Returns the promoted version, or None."""
        return next((version for version in self.versions(name) if "champion" in version.aliases), None)

    def promote(self, name: str, version: str, by: str, verdict: list[dict[str, Any]], override: str = "") -> Version:
        """Moves alias `champion`, records that in the ledger and returns the version. Promoting the champion again changes nothing.

        override: why the failed gates in `verdict` are overridden
        """
        with ledger.locked(self.ledger):
            champion = self._recover(name)
            chosen = self.version(name, version)
            if champion == chosen.version:
                return chosen
            return self._move(chosen, champion, "promote", by, {"verdict": verdict, "override": override})

    def rollback(self, name: str, by: str, reason: str) -> Version:
        """Moves alias `champion` back to the previous champion and returns it. Raises InputError if the ledger has none."""
        with ledger.locked(self.ledger):
            champion, stack = self._recover(name), self._champions(name)
            if len(stack) < 2:
                expected, fix = "a version that was promoted before", "see 'moworld release list'"
                raise InputError(f"model {name}", "champion", "no earlier champion", expected, fix)
            return self._move(self.version(name, stack[-2]), champion, "rollback", by, {"reason": reason})

    def entries(self, name: str) -> list[dict[str, Any]]:
        """Returns the ledger's lines of a model. Raises InputError if the chain is broken, or lines at its end are missing."""
        entries = [entry for entry in ledger.verify(self.ledger) if entry["model"] == name]
        model = self._model(name)
        head = model.tags.get(HEAD) if model else None
        if head not in [None, *(entry["hash"] for entry in entries)] or (head is None and len(entries) > 1):
            found, expected = f"{len(entries)} lines without the newest one", f"a line with hash {head}"
            raise InputError(self.ledger, f"model {name}", found, expected, "restore the ledger from a copy")
        return entries

    def _champions(self, name: str) -> list[str]:
        """Returns the promoted versions in order, without those that were rolled back."""
        stack: list[str] = []
        for entry in self.entries(name):
            stack = stack[:-1] if entry["action"] == "rollback" else [*stack, entry["version"]]
        return stack

    def _recover(self, name: str) -> str | None:
        """Returns the champion by the ledger's last line, after updating MLflow to it: its writer may have died in between."""
        entries = self.entries(name)
        if not entries:
            return None
        self._apply(name, entries[-1])
        return str(entries[-1]["version"])

    def _move(self, chosen: Version, previous: str | None, action: str, by: str, facts: dict[str, Any]) -> Version:
        entry = {"action": action, "model": chosen.name, "version": chosen.version, "previous": previous, "by": by}
        entry |= {"model_sha256": chosen.tags.get("model_sha256", ""), **facts}
        self._apply(chosen.name, ledger.append(self.ledger, entry))
        return self.version(chosen.name, chosen.version)

    def _apply(self, name: str, entry: dict[str, Any]) -> None:
        """Updates MLflow's aliases and head tag to a ledger line."""
        model = self.client.get_registered_model(name)
        if str(model.aliases.get("champion")) != entry["version"]:
            self.client.set_registered_model_alias(name, "champion", entry["version"])
        if str(model.aliases.get("candidate")) == entry["version"]:
            self.client.delete_registered_model_alias(name, "candidate")
        if model.tags.get(HEAD) != entry["hash"]:
            self.client.set_registered_model_tag(name, HEAD, entry["hash"])


def model_folder(reference: str, tracking: str = "") -> Path:
    """Returns a model folder for a path, a registered NAME[@ALIAS|@NUMBER], or "" for the model in the clone.

    Raises InputError if there is none.
    """
    if not reference and not SHIPPED.is_dir():
        fix = f"pass --model, or run from a clone, which has models/{SHIPPED.name} (git clone {REPOSITORY})"
        raise InputError("default model", "", "none in the installed package", "a model folder or a registered NAME@ALIAS", fix)
    path = Path(reference) if reference else SHIPPED
    if path.exists() or "/" in str(path):
        if not path.is_dir():
            raise InputError(path, "", "no such folder", "a model folder or a registered NAME@ALIAS", "check the path")
        return path
    configured = tracking or os.environ.get("MLFLOW_TRACKING_URI") or (home() / "mlflow" / "mlflow.db").exists()
    registry = ModelRegistry(tracking) if configured else None
    names = registry.names() if registry else []
    if registry is None or reference.partition("@")[0] not in names:
        known = ", ".join(names) or "none registered yet"
        raise InputError(reference, "", "no such folder or registered model", f"a model folder or one of: {known}", "check the name")
    return registry.folder_of(registry.find(reference))
