"""KFP's URIs of artifacts: the endpoint and the keys are those of its launchers, from config map kfp-launcher and its secrets."""

from base64 import b64encode

import boto3
import pytest
import yaml

from moworld.errors import InputError
from moworld_ops.components.platform.artifact_store import location
from moworld_ops.components.platform.preflight import Requirements, checks
from tests.cluster import Cluster, running
from tests.services import KEYS, has_swift, swift

SPACE = "/api/v1/namespaces/moworld"
OWN = {"secretRef": {"secretName": "own", "accessKeyKey": "id", "secretKeyKey": "key"}}


def data(**values: str) -> dict:
    return {"data": {key: b64encode(value.encode()).decode() for key, value in values.items()}}


def namespace(providers: dict | None = None, **secrets: dict) -> dict:
    known = {"secrets/mlpipeline-minio-artifact": data(accesskey="minio", secretkey="minio123"), "secrets/own": data(id="a", key="b")}
    return known | ({"configmaps/kfp-launcher": {"data": {"providers": yaml.safe_dump(providers)}}} if providers else {}) | secrets


@pytest.mark.parametrize(
    ("uri", "objects", "expected"),
    [
        (
            "minio://mlpipeline/v2/artifacts/x",
            namespace(),
            ("s3://mlpipeline/v2/artifacts/x", {"key": "minio", "secret": "minio123", "endpoint_url": "http://seaweedfs.kubeflow:9000"}),
        ),
        ("s3://moworld/x", namespace(), ("s3://moworld/x", {})),
        (
            "minio://own/x",
            namespace({"minio": {"default": {"endpoint": "s3.example:8333", "disableSSL": False, "region": "r", "credentials": OWN}}}),
            ("s3://own/x", {"key": "a", "secret": "b", "endpoint_url": "https://s3.example:8333", "client_kwargs": {"region_name": "r"}}),
        ),
        (
            "s3://b/in/x",
            namespace({"s3": {"default": {"endpoint": "d"}, "Overrides": [{"bucketName": "b", "keyPrefix": "in/", "endpoint": "e", "credentials": OWN}]}}),
            ("s3://b/in/x", {"key": "a", "secret": "b", "endpoint_url": "https://e"}),
        ),
        ("s3://b/x", namespace({"s3": {"default": {"credentials": {"fromEnv": True}}}}), ("s3://b/x", {})),
        ("gs://b/x", namespace({"gs": {"default": {"credentials": {"secretRef": {"secretName": "t", "tokenKey": "k"}}}}}, **{"secrets/t": data(k='{"a": 1}')}), ("gs://b/x", {"token": {"a": 1}})),
        ("minio://b/x?endpoint=e", namespace(), ("minio://b/x?endpoint=e", {})),
        ("file:///x", {}, ("file:///x", {})),
    ],
)  # fmt: skip
def test_the_store_of_a_uri_is_that_of_kfps_launchers(uri, objects, expected):
    assert location(uri, objects.get) == expected


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ({}, "secret mlpipeline-minio-artifact: found nothing"),
        ({"configmaps/kfp-launcher": {"forbidden": True}}, "config map kfp-launcher: found no permission"),
        ({"secrets/mlpipeline-minio-artifact": {"forbidden": True}}, "secret mlpipeline-minio-artifact: found no permission"),
        ({"secrets/mlpipeline-minio-artifact": data(accesskey="x")}, "secretkey"),
        ({"configmaps/kfp-launcher": {"data": {"providers": "{"}}}, "providers"),
    ],
)
def test_what_is_missing_is_named(objects, words):
    with pytest.raises(InputError, match=words):
        location("minio://mlpipeline/x", objects.get)


@pytest.mark.skipif(not has_swift(), reason="Swift is not installed (Debian: swift-proxy swift-account swift-container swift-object)")
def test_preflight_finds_an_artifact_of_another_run(tmp_path, monkeypatch):
    with swift(tmp_path / "swift") as url, running(Cluster()) as cluster:
        keys = {"aws_access_key_id": KEYS["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"]}
        store = boto3.client("s3", endpoint_url=url, **keys)
        store.create_bucket(Bucket="mlpipeline")
        store.put_object(Bucket="mlpipeline", Key="v2/artifacts/data/run/cache-features/id/features/index.json", Body=b"{}")
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))
        providers = {"minio": {"default": {"endpoint": url.partition("://")[2], "disableSSL": True, "credentials": OWN}}}
        cluster.put(f"{SPACE}/configmaps/kfp-launcher", {"data": {"providers": yaml.safe_dump(providers)}})
        cluster.put(f"{SPACE}/secrets/own", data(id=KEYS["AWS_ACCESS_KEY_ID"], key=KEYS["AWS_SECRET_ACCESS_KEY"]))
        uri = "minio://mlpipeline/v2/artifacts/data/run/cache-features/id/features"
        there, gone = checks(Requirements(artifacts=[uri, uri.replace("run", "other")]))
    assert there["passed"] and there["name"] == f"artifact {uri}", there
    assert not gone["passed"] and gone["found"] == "nothing there", gone
