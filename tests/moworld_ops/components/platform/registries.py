"""Small registries for tests: versions of a model with weights, metrics and a video, registered as the workflow does."""

import json
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from moworld.evaluation.gates import Gate
from moworld_ops.components.platform import releases
from moworld_ops.components.platform.registry import ModelRegistry, Version
from moworld_ops.components.register.step import register

NAME = "moworld-trust"
GATES = [
    Gate(fact="signature", among=["holds"]),
    Gate(fact="contract", among=["passed"]),
    Gate(metric="student_next_chunk_psnr", at_least=12, champion_margin=1),
    Gate(metric="frames_per_second", at_least=16, champion_margin=2),
]


def register_version(
    folder: Path, number: int, name: str = NAME, psnr: float = 20.0, fps: float = 20.0, size: int = 500, others: float = 0.0, revision: str = "abc", **settings: Any
) -> Version:
    """Registers version `number` of a model, whose files are made under `folder`, and returns it.

    size: bytes of its weights; others: share of the CPUs that other processes used while its speed was measured
    revision: of its data
    """
    model, metrics, features = (folder / f"{part}-{name}-{number}" for part in ("model", "metrics", "features"))
    (model / "transformer").mkdir(parents=True)
    (metrics / "samples").mkdir(parents=True)
    features.mkdir(parents=True)
    (features / "revision.json").write_text(json.dumps({"revision": revision, "contract_version": "1.0.0"}))
    (model / "model_index.json").write_text(json.dumps({"number": number}))
    (model / "transformer" / "weights.safetensors").write_bytes(random.Random(number).randbytes(size))
    values = {"student_next_chunk_psnr": psnr, "frames_per_second": fps, "drift": 1.5, "cpu_of_others": others, "nested": {"number": number}}
    (metrics / "metrics.json").write_text(json.dumps(values))
    (metrics / "samples" / "00-generated.mp4").write_bytes(b"video")
    parts = (str(model), str(metrics), str(features), str(folder / f"out-{name}-{number}"))
    found = register(*parts, {"name": name, **settings}, f"run-{number}")
    return ModelRegistry(settings.get("tracking", ""), settings.get("database", "")).version(name, found["version"])


def promote(registry: ModelRegistry, version: str, name: str = NAME, **settings: Any) -> Version:
    """Promotes a version by `GATES` unless `settings` has others."""
    return releases.promote(registry, registry.version(name, version), **{"gates": GATES, **settings})[0]


def sql(home: Path, statement: str, *values: Any) -> None:
    """Runs a statement in a state folder's database, as somebody with a database client does."""
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as connection:
        connection.execute(statement, values)
    connection.close()


def forget(home: Path) -> None:
    """Removes what a state folder remembers of its registry: the first key and the last line that were seen."""
    shutil.rmtree(home / "keys" / "registries")


def run_folder(home: Path, version: str) -> Path:
    """Returns the files of a version in a state folder."""
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as connection:
        (run,) = connection.execute("SELECT run_id FROM model_versions WHERE name = ? AND version = ?", (NAME, version)).fetchone()
    connection.close()
    return home / "mlflow" / "artifacts" / run / "artifacts"


def state(home: Path) -> tuple[list[Any], list[Any]]:
    """Returns the ledger's rows and MLflow's aliases and tags: what a refused command leaves as it is."""
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as connection:
        tables = ("moworld_ledger", "registered_model_aliases", "registered_model_tags", "model_versions")
        ledger, *rest = (sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in tables)
    connection.close()
    return ledger, rest
