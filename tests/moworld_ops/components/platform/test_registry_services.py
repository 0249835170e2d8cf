"""The registry of a cluster: MLflow on PostgreSQL with artifacts in a production S3 store; models are fetched only if signatures hold."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import boto3
import pytest

from moworld.errors import InputError
from moworld.files import sha256_tree
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.components.platform.serving import fetch
from moworld_ops.components.platform.verification import verify_release
from tests.moworld_ops.components.platform.test_verification import NAME, registered
from tests.services import KEYS, free_port, has_postgres, has_swift, mlflow_server, postgres, swift

ROOT = Path(__file__).parents[4]
services = pytest.mark.skipif(not (has_swift() and has_postgres()), reason="Swift or PostgreSQL 15 is not installed (Debian's packages)")


@pytest.mark.slow
@services
def test_releases_on_postgresql_and_s3_are_registered_promoted_verified_fetched_and_rolled_back(tmp_path, monkeypatch):
    for folder in ("swift", "postgres", "mlflow", "work"):
        (tmp_path / folder).mkdir()
    with swift(tmp_path / "swift") as s3, postgres(tmp_path / "postgres") as store:
        boto = boto3.client(
            "s3", endpoint_url=s3, aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"]
        )
        boto.create_bucket(Bucket="moworld")
        with mlflow_server(tmp_path / "mlflow", store, "s3://moworld/mlflow", s3) as tracking:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
            monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "work" / "state"))
            registry = registered(tmp_path / "work", 2)
            assert not registry.local
            keys = [entry["Key"] for entry in boto.list_objects_v2(Bucket="moworld")["Contents"]]
            assert any(key.endswith("model/transformer/weights.safetensors") for key in keys) and any(
                key.endswith("evidence.sig") for key in keys
            )
            registry.promote(NAME, "1", "ada", [])
            registry.promote(NAME, "2", "ada", [])
            assert verify_release(registry, registry.find(f"{NAME}@champion")) == 2
            fetched = fetch(f"{NAME}@champion", tmp_path / "pod")
            assert sha256_tree(fetched) == registry.find(f"{NAME}@2").tags["model_sha256"]
            registry.rollback(NAME, "bob", "walls flicker")
            assert ModelRegistry().champion(NAME).version == "1"
            # someone with the bucket's keys changes a weight
            (key,) = [k for k in keys if registry.find(f"{NAME}@1").run_id in k and k.endswith("weights.safetensors")]
            boto.put_object(Bucket="moworld", Key=key, Body=b"other weights")
            with pytest.raises(InputError, match="not what was signed"):
                fetch(f"{NAME}@champion", tmp_path / "pod")
            assert sha256_tree(tmp_path / "pod" / "current") == registry.find(f"{NAME}@2").tags["model_sha256"]  # no partial copy


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
        assert player.wait(timeout=30) in (0, -15)
