"""Everything that reads from or writes to S3, against a production store on loopback: Swift with its S3 interface."""

import itertools
import shutil

import boto3
import fsspec
import numpy as np
import pytest
import torch

from moworld.data.features import FeatureStore
from moworld.data.loader import batches
from moworld.data.sources import DataSettings, collect_clips
from moworld.errors import InputError
from moworld.files import sha256_tree
from moworld.model.checkpoints import import_model
from moworld_ops.components.platform.revisions import fetch_revision, newest_revision, read_index, record_revision
from tests.moworld.data.folders import verified
from tests.moworld.data.test_features import write
from tests.moworld.data.test_sources import shot, write_video
from tests.moworld.model.test_checkpoints import CONFIG, read_all, same, wan_weights, write_sharded
from tests.services import KEYS, has_swift, swift

pytestmark = pytest.mark.skipif(
    not has_swift(), reason="Swift is not installed (Debian: swift-proxy swift-account swift-container swift-object)"
)
BUCKET = "moworld"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory):
    with swift(tmp_path_factory.mktemp("swift")) as url, pytest.MonkeyPatch.context() as patch:
        for key, value in {**KEYS, "AWS_ENDPOINT_URL": url}.items():
            patch.setenv(key, value)
        fsspec.filesystem("s3").clear_instance_cache()
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
        yield url
        fsspec.filesystem("s3").clear_instance_cache()


def put(folder, where: str) -> str:
    uri = f"s3://{BUCKET}/{where}"
    fsspec.filesystem("s3").put(f"{folder}/", f"{uri}/", recursive=True)
    return uri


def test_windows_are_read_from_the_store_by_byte_range(endpoint, tmp_path):
    written = write(tmp_path / "features", {"a": 60, "b": 9}, shard_bytes=30_000)
    store = FeatureStore(put(tmp_path / "features", "features"))
    window = store.read_window("a", 31, 7)
    assert torch.equal(window["latents"], written["a"]["latents"][:, 31:38])
    assert torch.equal(window["c2w"], written["a"]["c2w"][124:149])
    here, there = (batches(one, "train", 5, batch=3, seed=2) for one in (FeatureStore(tmp_path / "features"), store))
    for one, other in itertools.islice(zip(here, there, strict=True), 4):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_videos_are_collected_from_the_store(endpoint, tmp_path):
    write_video(tmp_path / "videos/a.mp4", np.concatenate([shot(0), shot(1)]), fps=24)
    uri = put(tmp_path / "videos", "videos")
    for source, name in ((uri, "remote"), (str(tmp_path / "videos"), "local")):
        collect_clips(tmp_path / name, DataSettings(videos=source, min_frames=9), seed=0)
    assert verified(tmp_path / "remote") == verified(tmp_path / "local")


def test_a_checkpoint_is_imported_from_the_store(endpoint, tmp_path):
    weights = wan_weights(1)
    write_sharded(tmp_path / "wan/high_noise_model", weights)
    write_sharded(tmp_path / "wan/low_noise_model", wan_weights(2))
    for source, name in ((put(tmp_path / "wan", "wan"), "remote"), (str(tmp_path / "wan"), "local")):
        import_model(source, tmp_path / name, CONFIG, seed=3)
    assert same(read_all(tmp_path / "remote/transformer"), read_all(tmp_path / "local/transformer"))


def test_dvc_pushes_to_the_store_and_pulls_from_it(endpoint, tmp_path):
    remote = f"s3://{BUCKET}/dvc"
    write(tmp_path / "features", {"a": 9})
    first = record_revision(str(tmp_path / "features"), str(tmp_path / "registry"), "one", remote)
    assert record_revision(str(tmp_path / "features"), str(tmp_path / "registry"), "again", remote) == first
    before = sha256_tree(tmp_path / "features")
    write(tmp_path / "features", {"a": 9, "b": 12})
    second = record_revision(str(tmp_path / "features"), str(tmp_path / "registry"), "two", remote)
    assert second != first and newest_revision(str(tmp_path / "registry")) == second
    shutil.rmtree(tmp_path / "registry/.dvc/cache")  # data must come from the store
    shutil.rmtree(tmp_path / "registry/features")
    fetch_revision(str(tmp_path / "registry"), first, str(tmp_path / "back"))
    assert sha256_tree(tmp_path / "back") == before
    assert [row["clip_id"] for row in read_index(str(tmp_path / "registry"), second)] == ["a", "b"]


def test_a_wrong_secret_is_one_line(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    fsspec.filesystem("s3").clear_instance_cache()
    write(tmp_path / "features", {"a": 9})
    with pytest.raises(InputError) as caught:
        record_revision(str(tmp_path / "features"), str(tmp_path / "registry"), "one", f"s3://{BUCKET}/dvc")
    assert "\n" not in str(caught.value) and f"{BUCKET}/dvc" in str(caught.value)
    with pytest.raises(InputError):
        FeatureStore(f"s3://{BUCKET}/features")
    monkeypatch.undo()
    fsspec.filesystem("s3").clear_instance_cache()
