"""Model registry: MLflow versions with metrics and lineage, aliases `candidate` and `champion`, and the ledger of releases.

Without a tracking server, MLflow uses a SQLite file in the state folder, and artifacts are beside it. Reading imports no mlflow
(tracking.py), nor does a move of an alias; only registration and deletion do.
"""

import hashlib
import json
import logging
import os
import posixpath
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from moworld.errors import InputError, IntegrityError
from moworld.extras import require
from moworld.files import SHIPPED_MODEL as SHIPPED
from moworld.settings import Settings
from moworld_ops.components.platform.artifacts import Artifacts, LocalArtifacts, artifacts_at, download
from moworld_ops.components.platform.home import home
from moworld_ops.components.platform.ledger import REVOKE, TRUST, WITHDRAW, Ledger, adoption, champion_of
from moworld_ops.components.platform.source import REPOSITORY
from moworld_ops.components.platform.tracking import Model, Store, Version, sqlite_file, sqlite_uri, store_at, with_driver

EXPERIMENT = "moworld"
HEAD = "ledger_head"  # tag of a registered model: hash of its last ledger line
UNAPPLIED = "the next promotion, rollback or gc applies it"  # a line whose writer died before MLflow was updated
DATABASE = "MOWORLD_REGISTRY_DATABASE"
MAX_PARAM_CHARACTERS = 6000  # MLflow's limit
MAX_NAME_CHARACTERS = 256  # of a registered model, in MLflow's database
SIGNATURE = "evidence.sig"  # the last file of a version that is uploaded


def _registered_name(name: str) -> str:
    """Returns the name of a registered model. Raises ValueError for one that MLflow would refuse after the training."""
    path = posixpath.normpath(name)
    unsound = not name.strip() or not name.isprintable() or len(name) > MAX_NAME_CHARACTERS or path != name or path == "." or path.startswith("..")
    if unsound or set(name) & set("/:@") or {"'", '"'} <= set(name):  # @ ends a name in NAME@ALIAS; MLflow's search cannot quote both quotes
        raise ValueError(f"a name that MLflow accepts: up to {MAX_NAME_CHARACTERS} characters without / : @ and both kinds of quotes, and not . or ..")
    return name


class RegistrySettings(Settings):
    """Section `registry` of a profile.

    name:     name of the registered model
    tracking: MLflow's URI; "" for the store in the state folder
    database: URL of the database with the ledger, which MOWORLD_REGISTRY_DATABASE replaces; "" for MLflow's own if `tracking` is a database,
              for a server a file in the state folder, which several machines cannot share
    profile:  name of the profile; set when the profile is loaded
    data:     folder of the data registry; "" for the one in the state folder
    remote:   where a new data registry keeps its data, s3://...; "" for a folder next to it
    """

    name: Annotated[str, AfterValidator(_registered_name)]
    tracking: str = ""
    database: str = ""
    profile: str = ""
    data: str = ""
    remote: str = ""


class ModelRegistry:
    """The registered models of one tracking store; default MLFLOW_TRACKING_URI, else the store in the state folder.

    tracking, database: as in RegistrySettings
    create: a missing store in the state folder is created at the first registration; False raises InputError instead
    """

    def __init__(self, tracking: str = "", database: str = "", create: bool = True) -> None:
        self.uri = tracking or os.environ.get("MLFLOW_TRACKING_URI", "") or sqlite_uri(home() / "mlflow" / "mlflow.db")
        self.uri = with_driver(self.uri)
        self.store: Store = store_at(self.uri)
        self.file = sqlite_file(self.uri)
        self.local = self.file is not None
        self.folder = self.file.parent if self.file else home() / "mlflow"
        own = sqlite_uri(home() / "ledger.db") if self.uri.startswith("http") else self.uri
        self.database = os.environ.get(DATABASE) or database or own
        if not create and not self.exists:
            found, fix = "no registry", "check MOWORLD_HOME and MLFLOW_TRACKING_URI; a run of pipeline release registers the first model"
            raise InputError(self.folder, "mlflow.db", found, "a registry of models", fix)

    @property
    def exists(self) -> bool:
        """False for a store in the state folder that no model was registered in."""
        return self.file is None or self.file.is_file()

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger."""
        ledger = Ledger(self.database, home() / "ledger.jsonl")
        ledger.known_versions = self._known_versions
        return ledger

    def _known_versions(self) -> dict[str, str]:
        versions = [version for name in self.names() for version in self.versions(name)]
        return {f"{version.name}@{version.version}": version.tags.get("model_sha256", "") for version in versions}

    @cached_property
    def client(self) -> Any:
        """MLflow's client, for what writes."""
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        for name in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if self.local:
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.exists:
            self.store.models()  # an unreachable server or a damaged file is reported within seconds; the client would try for minutes
        return require("mlflow", "registry").MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    # reading

    def models(self) -> list[Model]:
        """Returns the registered models by name."""
        return self.store.models() if self.exists else []

    def names(self) -> list[str]:
        """Returns the names of the registered models."""
        return [model.name for model in self.models()]

    def model(self, name: str) -> Model | None:
        """Returns a registered model with its aliases and tags, or None."""
        return next((model for model in self.models() if model.name == name), None)

    def versions(self, name: str) -> list[Version]:
        """Returns all versions of a model, oldest first; [] for an unknown name."""
        model = self.model(name)
        return self.store.versions(model) if model else []

    def version(self, name: str, which: str) -> Version:
        """Returns a version by number or alias. Raises InputError if there is none, IntegrityError if the ledger's champion has no alias."""
        versions = self.versions(name)
        for version in versions:
            if which == version.version or which in version.aliases:
                return version
        if not versions and self.model(name) is None:
            known = ", ".join(self.names()) or "none registered yet"
            raise InputError(f"model {name}", "", "no such model", f"one of: {known}", "see 'moworld release list'")
        if which == "champion" and (recorded := champion_of(self.entries(name))):
            alias = (self.model(name) or Model(name, {}, {})).aliases.get("champion")
            found = f"version {alias}, which does not exist" if alias else "no alias"
            raise IntegrityError(f"model {name}", "alias champion", found, f"version {recorded}, as in the ledger", adoption(name))
        known = ", ".join(f"{v.version} {' '.join(v.aliases)}".strip() for v in versions) or "none"
        raise InputError(f"model {name}", which, "no such version or alias", f"one of: {known}", "see 'moworld release list'")

    def find(self, reference: str) -> Version:
        """Returns a version by NAME@ALIAS, NAME@NUMBER or NAME (its champion). Raises InputError if there is none."""
        name, at, which = reference.partition("@")
        if not name.strip() or (at and not which):
            known = ", ".join(self.names()) or "none registered yet"
            raise InputError("reference", "", repr(reference), f"NAME@ALIAS or NAME@VERSION with a name of: {known}", "correct it")
        return self.version(name, which or "champion")

    def artifacts(self, version: Version) -> Artifacts:
        """Returns the files of a version: model/, evidence/ and their signatures.

        Those of a local store are beside its database, whatever path was recorded, so that a copied state folder has its own.
        """
        if self.local:
            return LocalArtifacts(self.run_folder(version.run_id))
        return artifacts_at(version.source.rpartition("/")[0], self.uri)

    def run_folder(self, run_id: str) -> Path:
        """Returns where a local store has the files of a run. Raises IntegrityError for an id that is not a name."""
        if not run_id or not run_id.isalnum():
            raise IntegrityError("registry", "run", repr(run_id), "the id of an MLflow run", "restore the registry from a copy")
        return self.folder / "artifacts" / run_id / "artifacts"

    def folder_of(self, version: Version) -> Path:
        """Returns the version's model folder, with evidence and signatures next to it. Remote artifacts are downloaded on each call."""
        artifacts = self.artifacts(version)
        if isinstance(artifacts, LocalArtifacts):
            return artifacts.root / "model"
        target = home() / "models" / version.run_id
        shutil.rmtree(target, ignore_errors=True)
        return download(artifacts, target) / "model"

    def metrics(self, version: Version) -> dict[str, Any]:
        """Returns the metrics that step benchmark measured for a version."""
        with self.artifacts(version).open("evidence/metrics.json") as stream:
            data = stream.read()
        try:
            return dict(json.loads(data))
        except (ValueError, TypeError, RecursionError) as error:
            where = f"{version.name} version {version.version}"
            raise IntegrityError(where, "metrics.json", error, "JSON", "restore it from a copy, or register the model again") from None

    def champion(self, name: str) -> Version | None:
        """Returns the version with alias `champion` in MLflow, or None. Gates use the ledger's (releases.py)."""
        return next((version for version in self.versions(name) if "champion" in version.aliases), None)

    def entries(self, name: str, all_entries: Sequence[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        """Returns the ledger's lines of a model. Raises IntegrityError if the chain is broken, or lines at its end are missing."""
        found = self.ledger.entries() if all_entries is None else all_entries
        entries = [entry for entry in found if entry["model"] == name and entry["action"] not in (TRUST, REVOKE, WITHDRAW)]
        model = self.model(name)
        head = model.tags.get(HEAD) if model else None
        if head and not found and (file := sqlite_file(self.database)) and not file.is_file():
            raise InputError(file, "registry.database", "no such file", "the database with the ledger", f"correct {DATABASE}")
        if not head and len(entries) > 1:
            expected, fix = f"the hash of the ledger's last line, {entries[-1]['hash']}", "restore MLflow's database from a copy"
            raise IntegrityError(f"model {name}", f"tag {HEAD}", "none", expected, fix)
        if head and head not in [entry["hash"] for entry in entries]:
            found_lines, expected = f"{len(entries)} lines without the newest one", f"a line with hash {head}"
            raise IntegrityError(self.ledger.where, f"model {name}", found_lines, expected, "restore the ledger from a copy")
        return entries

    # writing

    def prepare(self) -> None:
        """Creates a missing store, and checks that the registry trusts this manager's key. Raises InputError if it does not."""
        if not self.exists:
            self.client.search_registered_models(max_results=1)  # MLflow creates its tables
        self.ledger.check_signer()

    def begin(self, name: str, tags: Mapping[str, str]) -> tuple[Version, bool]:
        """Creates the next version of a model, without files, and returns it; True if `complete` has to follow.

        tags: lineage; "run" and "model_sha256" are required. The same model of the same run is registered once: a version that is
        complete is returned with False, one whose registration died with True.
        """
        for version in self.versions(name):
            if all(version.tags.get(key) == tags[key] for key in ("run", "model_sha256")):
                return version, SIGNATURE not in self.artifacts(version).names()
        experiment, nesting = self._place()
        run = self.client.create_run(experiment, run_name=tags["run"], tags={**tags, **nesting})
        run_id = run.info.run_id
        source = f"artifacts/{run_id}/artifacts/model" if self.local else f"{run.info.artifact_uri}/model"
        if self.model(name) is None:
            self._create_model(name)
        created = self.client.create_model_version(name, source, run_id, tags=dict(tags))
        return self.version(name, str(created.version)), True

    def complete(
        self, version: Version, model: Path, evidence: Sequence[Path], metrics: Mapping[str, float], params: Mapping[str, str]
    ) -> Version:
        """Stores the files of a version, gives it alias `candidate` and returns it.

        evidence: files and folders, one of them the folder `evidence` with metrics.json; the last one marks the version as complete
        """
        self._log(version, metrics, params)
        for path, name in [(model, "model"), *((path, path.name) for path in evidence)]:
            if self.local:
                _copy(path, self.run_folder(version.run_id) / name)
            elif path.is_dir():
                self.client.log_artifacts(version.run_id, str(path), name)
            else:
                self.client.log_artifact(version.run_id, str(path))
        self.client.set_registered_model_alias(version.name, "candidate", version.version)
        self.client.set_terminated(version.run_id)
        return self.version(version.name, version.version)

    def apply(self, name: str, entry: Mapping[str, Any]) -> None:
        """Updates MLflow's aliases and head tag to a ledger line. The head tag is last: with it the line is applied.

        Raises InputError for a full disk, a lost connection, ...
        """
        model = self.model(name) or Model(name, {}, {})
        aliases: dict[str, str | None] = {}
        if model.aliases.get("champion") != entry["version"]:
            aliases["champion"] = entry["version"]
        if model.aliases.get("candidate") == entry["version"]:
            aliases["candidate"] = None
        try:
            self.store.move(name, aliases, {HEAD: entry["hash"]} if model.tags.get(HEAD) != entry["hash"] else {})
        except InputError as error:
            error.fix += f"; the ledger has the line, and {UNAPPLIED}"
            raise

    def remove(self, version: Version) -> None:
        """Deletes a version, and its files unless another version of any model has the same ones."""
        self.client.delete_model_version(version.name, version.version)
        if not any(_has_files_of(other, version) for name in self.names() for other in self.versions(name)):
            self.artifacts(version).remove()

    def _create_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by another run at the same moment
                raise

    def _log(self, version: Version, metrics: Mapping[str, float], params: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, Metric, Param

        now, revision = int(time.time() * 1000), version.tags.get("data_revision", "")
        self.client.log_batch(
            version.run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            params=[Param(key, value[:MAX_PARAM_CHARACTERS]) for key, value in params.items()],
        )
        contracts = hashlib.sha256(version.tags.get("contract_version", "").encode()).hexdigest()[:8]
        digest = f"{revision[:12]}+contracts-{contracts}"  # MLflow allows 36 characters
        dataset = Dataset("features", digest, "dvc", json.dumps({"registry": "dvc", "revision": revision}))
        self.client.log_inputs(version.run_id, datasets=[DatasetInput(dataset)])

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


def is_unapplied(model: Model | None, entries: Sequence[dict[str, Any]]) -> bool:
    """Returns True if the last of a model's ledger lines is not in MLflow yet, because its writer died or could not reach it."""
    head, alias = (model.tags.get(HEAD), model.aliases.get("champion")) if model else (None, None)
    before = entries[:-1]
    known = before[-1]["hash"] if before else None
    return bool(entries) and head == known != entries[-1]["hash"] and alias in (champion_of(entries), champion_of(before))


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


def _has_files_of(other: Version, version: Version) -> bool:
    """Returns True if `other` has the run or the folder of `version`, as versions have that MLflow's own client made of a run."""
    folder = version.source.rpartition("/")[0]
    named = f"{other.source}/"
    return (
        other.run_id == version.run_id
        or bool(version.run_id and version.run_id in other.source)
        or bool(folder and named.startswith(f"{folder}/"))
        or other.source == f"models:/{version.name}/{version.version}"
    )


def _copy(source: Path, target: Path) -> None:
    """Copies a file, or a folder in place of what a registration that died left there."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
