"""Withdrawal of footage: exactly what learned from it is named and fails the gate, and what stays is as before."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch

from moworld.data.clips import Clip, write_manifest
from moworld.data.features import DTYPES, FeatureStore, FeatureWriter
from moworld.errors import IntegrityError
from moworld.files import sha256_tree, write_json
from moworld_ops.components.platform import releases
from moworld_ops.components.platform.home import environment
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.components.platform.revisions import fetch_revision, newest_revision, record_revision
from moworld_ops.components.platform.steps import Refused
from moworld_ops.components.platform.verification import verify_release
from tests.moworld_ops.components.platform.registries import NAME, promote, register_version
from tests.moworld_ops.pipelines.test_cli import moworld

PROFILE = Path(__file__).parents[3] / "moworld_ops/pipelines/profiles/test.yaml"


def write_features(folder: Path, clips: list[tuple[str, str]]) -> None:
    """Writes features of clips, (clip_id, scene), one to three a shard."""
    folder.mkdir(parents=True)
    writer = FeatureWriter(folder, shard_bytes=60_000)
    for number, (clip_id, scene) in enumerate(clips):
        generator = torch.Generator().manual_seed(number)
        tensors = {"latents": torch.randn(16, 2, 4, 6, generator=generator), "text": torch.randn(1, 384, generator=generator),
                   "c2w": torch.eye(4).repeat(5, 1, 1), "intrinsics": torch.ones(5, 4)}  # fmt: skip
        row = {"clip_id": clip_id, "split": "train", "scene": scene, "source": "video", "caption": "a street", "video_sha256": f"{number:064x}"}
        writer.add({**row, "num_frames": 5}, tensors)
    writer.close()
    (folder / "world.json").write_text("{}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A state folder with three revisions: without the source `holiday`, with it, and with more. A model was trained on each."""
    folder = tmp_path_factory.mktemp("prepared")
    home = folder / "state"
    with environment(MOWORLD_HOME=str(home)):
        fill(home, folder / "work")
    return home


@pytest.fixture
def home(prepared, tmp_path, monkeypatch):
    """A copy of the state folder, of which nothing depends on its place."""
    home = tmp_path / "state"
    shutil.copytree(prepared, home)
    monkeypatch.setenv("MOWORLD_HOME", str(home))
    (tmp_path / "test.yaml").write_text(PROFILE.read_text().replace("name: moworld-test", f"name: {NAME}"))
    return home


def fill(home: Path, work: Path) -> None:
    garden, holiday, river = [("garden-00", "garden")], [("holiday-00", "holiday"), ("holiday-01", "holiday")], [("river-00", "river")]
    for number, clips in enumerate((garden, garden + holiday, garden + holiday + river), start=1):
        features = home / "runs" / f"run-{number}" / "artifacts" / "features"
        write_features(features, clips)
        revision = record_revision(str(features), str(home / "registry"), "data")
        write_json(features.parents[1] / "run.json", {"run": f"run-{number}", "status": "done", "started": float(number), "seconds": 1.0, "steps": {},
                                                      "data_revision": revision})  # fmt: skip
        register_version(work, number, revision=revision)
    registry = ModelRegistry()
    promote(registry, "1")
    promote(registry, "2")


def withdraw(tmp_path, *arguments):
    return moworld(tmp_path / "state", "data", "withdraw", *arguments, "--profile", str(tmp_path / "test.yaml"))


def test_a_withdrawal_names_exactly_what_learned_from_it_and_makes_a_revision_without_it(home, tmp_path):
    before = newest_revision(str(home / "registry"))
    done = withdraw(tmp_path, "holiday", "--reason", "consent withdrawn", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["versions"] == [f"{NAME}@2", f"{NAME}@3"] and found["champions"] == [f"{NAME}@2"]
    assert found["runs"] == ["run-2", "run-3"] and set(found["clips"]) == {"holiday-00", "holiday-01"}
    assert found["revisions"][0] == before and len(found["revisions"]) == 2
    assert found["revision"] == newest_revision(str(home / "registry")) != before
    for revision, name in ((before, "old"), (found["revision"], "new")):
        fetch_revision(str(home / "registry"), revision, str(tmp_path / name))
    old, new = FeatureStore(tmp_path / "old"), FeatureStore(tmp_path / "new")
    assert [row.clip_id for row in new.clips] == ["garden-00", "river-00"]
    for clip in new.clips:
        for key in DTYPES:
            assert torch.equal(old.read_window(clip.clip_id, 0, 2)[key], new.read_window(clip.clip_id, 0, 2)[key])


def test_models_that_learned_from_it_fail_the_gate_until_an_override_and_the_champion_goes_on_serving(home, tmp_path):
    withdraw(tmp_path, "holiday-01", "--reason", "consent withdrawn")
    registry = ModelRegistry()
    assert verify_release(registry, registry.find(f"{NAME}@champion")) == 2  # version 2 is champion still
    with pytest.raises(Refused, match=r"no withdrawn footage: found holiday-01 \(consent withdrawn\)"):
        promote(registry, "3")
    releases.rollback(registry, NAME, reason="footage was withdrawn")
    with pytest.raises(Refused, match="no withdrawn footage"):
        promote(registry, "2")
    later = register_version(tmp_path / "work", 4, revision=json.loads((home / "runs/run-2/run.json").read_text())["data_revision"])
    with pytest.raises(Refused, match="no withdrawn footage"):
        promote(registry, later.version)
    promote(registry, "2", override="the owner agreed again")
    assert registry.champion(NAME).version == "2"
    assert promote(registry, "1").version == "1"


def test_a_dry_run_changes_nothing_and_names_what_either_would_touch(home, tmp_path):
    def state():
        kept = [sha256_tree(home / name) for name in ("runs", "mlflow", "keys", "registry-store", "registry/features")]
        return [*kept, newest_revision(str(home / "registry"))]

    before = state()
    done = withdraw(tmp_path, "holiday", "--dry-run", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["versions"] == [f"{NAME}@2", f"{NAME}@3"] and found["revision"] == ""
    assert any("registry-store" in path for path in found["erased"]) and any("run-3" in path for path in found["erased"])
    assert state() == before


def test_erased_bytes_are_in_no_run_cache_or_remote(home, tmp_path):
    clips = home / "runs/run-3/artifacts/clips"
    clip = Clip("holiday-00", "video", "holiday", "train", 5, 24.0, 8, 8, "videos/holiday-00.mp4", "0" * 64)
    write_manifest(clips, [clip])
    (clips / "videos").mkdir()
    (clips / "videos" / "holiday-00.mp4").write_bytes(b"film")
    secret = FeatureStore(home / "runs/run-2/artifacts/features").read_window("holiday-00", 0, 2)["latents"].transpose(0, 1).half().contiguous().numpy().tobytes()

    def holders():
        return [path for path in home.rglob("*") if path.is_file() and secret in path.read_bytes()]

    assert holders()
    done = withdraw(tmp_path, "holiday", "--reason", "the law", "--erase")
    assert done.returncode == 0 and "your originals, backups" in done.stdout, done.stderr
    assert not holders() and not (clips / "videos/holiday-00.mp4").exists()
    fetch_revision(str(home / "registry"), newest_revision(str(home / "registry")), str(tmp_path / "rest"))
    assert [row.clip_id for row in FeatureStore(tmp_path / "rest").clips] == ["garden-00", "river-00"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "--reason", "x"), "no such source or clip, expected a source (garden, holiday, river)"),
        (("holiday",), "--reason: found nothing"),
        (("holiday", "--reason", " "), "--reason: found nothing"),
    ],
)
def test_a_bad_request_is_one_line(home, tmp_path, arguments, words):
    done = withdraw(tmp_path, *arguments)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_the_only_footage_and_an_untrusted_manager_change_nothing(home, tmp_path, monkeypatch):
    registry = ModelRegistry()
    before = newest_revision(str(home / "registry")), registry.ledger.rows()
    monkeypatch.setenv("MOWORLD_SIGNING_KEY", str(tmp_path / "other" / "signing.pem"))
    (tmp_path / "other").mkdir()
    done = withdraw(tmp_path, "holiday", "--reason", "x")
    assert done.returncode == 2, done.stdout
    assert (newest_revision(str(home / "registry")), registry.ledger.rows()) == before


def test_a_changed_line_of_a_withdrawal_is_found(home, tmp_path):
    withdraw(tmp_path, "holiday", "--reason", "consent withdrawn")
    with sqlite3.connect(home / "mlflow/mlflow.db") as database:
        database.execute("UPDATE moworld_ledger SET line = replace(line, 'holiday-00', 'garden-00') WHERE line LIKE '%withdraw%'")
    with pytest.raises(IntegrityError):
        ModelRegistry().ledger.entries()


def test_the_list_has_the_sources_of_the_newest_revision(home, tmp_path):
    done = moworld(home, "data", "list", "--profile", str(tmp_path / "test.yaml"), "--json")
    found = json.loads(done.stdout)
    assert [row["clips"] for row in found["revisions"]] == [4, 3, 1]
    assert [(row["scene"], row["clips"], row["frames"]) for row in found["sources"]] == [("garden", 1, 5), ("holiday", 2, 10), ("river", 1, 5)]
