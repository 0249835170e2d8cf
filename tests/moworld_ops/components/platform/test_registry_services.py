"""The registry of a cluster: MLflow on PostgreSQL with artifacts in a production S3 store; models are fetched only if signatures hold."""

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest

from moworld.errors import InputError, IntegrityError
from moworld.files import sha256_tree
from moworld_ops.components.platform import keys, releases
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.components.platform.serving import fetch
from moworld_ops.components.platform.verification import verify_release
from tests.moworld_ops.components.platform.registries import NAME, promote, register_version
from tests.moworld_ops.components.platform.test_verification import manage_in_processes
from tests.services import KEYS, free_port, has_postgres, has_swift, mlflow_server, postgres, swift

ROOT = Path(__file__).parents[4]
services = pytest.mark.skipif(not (has_swift() and has_postgres()), reason="Swift or PostgreSQL 15 is not installed (Debian's packages)")


def bucket(s3: str) -> Any:
    """Returns a client of a store, with an empty bucket `moworld`."""
    boto = boto3.client(
        "s3", endpoint_url=s3, aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"]
    )
    boto.create_bucket(Bucket="moworld")
    return boto


@pytest.mark.slow
@services
def test_releases_on_postgresql_and_s3_are_registered_promoted_verified_fetched_and_rolled_back(tmp_path, monkeypatch):
    for folder in ("swift", "postgres", "mlflow", "work"):
        (tmp_path / folder).mkdir()
    with swift(tmp_path / "swift") as s3, postgres(tmp_path / "postgres") as store:
        boto = bucket(s3)
        with mlflow_server(tmp_path / "mlflow", store, "s3://moworld/mlflow", s3) as tracking:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
            monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "work" / "state"))
            monkeypatch.setenv("MOWORLD_REGISTRY_DATABASE", store)
            for number in (1, 2):
                register_version(tmp_path / "work", number)
            registry = ModelRegistry()
            assert not registry.local
            keys = [entry["Key"] for entry in boto.list_objects_v2(Bucket="moworld")["Contents"]]
            assert any(key.endswith("model/transformer/weights.safetensors") for key in keys) and any(
                key.endswith("evidence.sig") for key in keys
            )
            promote(registry, "1")
            monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "bob"))
            with pytest.raises(InputError, match="does not trust"):
                promote(registry, "2")
            monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "work" / "state"))
            releases.trust(registry, tmp_path / "bob" / "keys" / "signing.pub", "bob")
            monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "bob"))
            registry = ModelRegistry()
            promote(registry, "2")
            assert verify_release(registry, registry.find(f"{NAME}@champion")) == 2
            fetched = fetch(f"{NAME}@champion", tmp_path / "pod")
            assert sha256_tree(fetched) == registry.find(f"{NAME}@2").tags["model_sha256"]
            releases.rollback(registry, NAME, reason="walls flicker")
            assert ModelRegistry().champion(NAME).version == "1" and registry.entries(NAME)[-1]["by"] == "bob"
            # someone with the bucket's keys changes a weight
            (key,) = [k for k in keys if registry.find(f"{NAME}@1").run_id in k and k.endswith("weights.safetensors")]
            boto.put_object(Bucket="moworld", Key=key, Body=b"other weights")
            with pytest.raises(IntegrityError, match="not what was signed"):
                fetch(f"{NAME}@champion", tmp_path / "pod")
            assert sha256_tree(tmp_path / "pod" / "current") == registry.find(f"{NAME}@2").tags["model_sha256"]  # no partial copy


@pytest.mark.slow
@pytest.mark.timeout(3600)
@services
def test_two_state_directories_share_one_registry_in_postgresql_and_s3(tmp_path, monkeypatch):
    """8 processes on two state directories with 3 moves each (MOWORLD_MOVES; 125 take half an hour): one linear ledger, whose end equals the alias."""
    ada, bob = tmp_path / "ada", tmp_path / "bob"
    for folder in ("postgres", "mlflow", "swift", "work"):
        (tmp_path / folder).mkdir()
    moves = int(os.environ.get("MOWORLD_MOVES", "3"))
    with ExitStack() as running:
        s3, store = running.enter_context(swift(tmp_path / "swift")), running.enter_context(postgres(tmp_path / "postgres"))
        bucket(s3)
        tracking = running.enter_context(mlflow_server(tmp_path / "mlflow", store, "s3://moworld/mlflow", s3))
        environment = {"MLFLOW_TRACKING_URI": tracking, "MOWORLD_REGISTRY_DATABASE": store}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MOWORLD_HOME", str(bob))
        public = keys.signing_key()[0].with_suffix(".pub")
        monkeypatch.setenv("MOWORLD_HOME", str(ada))
        for number in (1, 2, 3):
            register_version(tmp_path / "work", number)
        registry = ModelRegistry()
        promote(registry, "1")
        releases.trust(registry, public, "bob")
        manage_in_processes(*((str(home), seed, moves, environment) for seed in range(4) for home in (ada, bob)))
        entries, standing = registry.entries(NAME), list[str]()
        for entry in entries:
            assert entry["previous"] == (standing[-1] if standing else None)
            standing = standing[:-1] if entry["action"] == "rollback" else [*standing, entry["version"]]
            assert entry["version"] == standing[-1]
        assert len({entry["by"] for entry in entries}) == 2 and [entry["index"] for entry in registry.ledger.entries()] == [*range(len(entries) + 2)]
        champion = registry.champion(NAME)
        assert champion.version == standing[-1] and verify_release(registry, champion) == len(entries)
        monkeypatch.setenv("MOWORLD_HOME", str(bob))
        assert verify_release(ModelRegistry(), champion) == len(entries)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """The model that the pod's init container copies where no registered one is named."""
    folder = tmp_path_factory.mktemp("pod")
    command = [sys.executable, "-m", "moworld_ops.components.platform.serving", "", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "current"


def test_the_pod_s_init_container_copies_the_model_of_the_image_by_default(fetched, tmp_path):
    assert (fetched / "model_index.json").is_file() and list((fetched / "pictures").glob("*.png"))
    command = [sys.executable, "-m", "moworld_ops.components.platform.serving", "no/model", str(tmp_path)]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1


def test_the_standalone_player_serves_a_folder_and_requires_a_token_on_a_public_address(fetched, monkeypatch):
    port = free_port()
    command = [sys.executable, "-m", "moworld.inference.player", str(fetched), "--host", "0.0.0.0", "--port", str(port), "--sessions", "3"]
    monkeypatch.delenv("MOWORLD_PLAY_TOKEN", raising=False)
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "MOWORLD_PLAY_TOKEN" in refused.stderr
    monkeypatch.setenv("MOWORLD_PLAY_TOKEN", "sesame")
    player = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert str(port) in player.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            assert json.load(answer) == {"sessions": 0, "max_sessions": 3}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": "Bearer sesame"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert "moworld_player_sessions_limit 3" in answer.read().decode()
    finally:
        player.terminate()
        assert player.wait(timeout=30) == 143
