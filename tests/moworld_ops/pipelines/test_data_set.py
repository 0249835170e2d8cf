"""A steward's day on two imports: both are seen, one source is withdrawn, what it touched is named, and it does not come back."""

import json
import shutil
from pathlib import Path

import pytest

from moworld.data.clips import read_manifest
from moworld_ops.components.platform.dataset import earlier_clips
from moworld_ops.components.platform.home import environment
from tests.moworld_ops.components.platform.registries import NAME, promote, register_version
from tests.moworld_ops.components.platform.test_dataset import film, run
from tests.moworld_ops.pipelines.test_cli import moworld
from tests.moworld_ops.pipelines.test_withdrawal import PROFILE


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with two revisions, of one video and of three, and a promoted model of the second."""
    from moworld_ops.components.platform.registry import ModelRegistry
    from moworld_ops.components.platform.revisions import newest_revision

    home = tmp_path_factory.mktemp("state")
    film(home / "one/a.mp4", 1)
    for number, name in enumerate("bc", start=2):
        film(home / "two" / f"{name}.mp4", number)
    shutil.copy(home / "one/a.mp4", home / "two/again.mp4")
    with environment(MOWORLD_HOME=str(home)):
        for name in ("one", "two"):
            run(home, f"work-{name}", home / name)
        register_version(home / "models", 1, revision=newest_revision(str(home / "registry")))
        promote(ModelRegistry(), "1")
    (home / "test.yaml").write_text(PROFILE.read_text().replace("name: moworld-test", f"name: {NAME}"))
    return home


def data(home: Path, *arguments: str) -> dict:
    done = moworld(home, "data", *arguments, "--profile", str(home / "test.yaml"), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_both_imports_are_seen_one_source_is_withdrawn_and_stays_out(home: Path):
    listed, shown, counted = data(home, "list"), data(home, "show"), data(home, "stats")
    assert [(row["clips"], row["sources"]) for row in listed["revisions"]] == [(3, 3), (1, 1)]
    assert {row["file"]: (row["fate"], row["clips"]) for row in shown["files"]} == {
        **dict.fromkeys(("a.mp4", "b.mp4", "c.mp4"), ("imported", 1)), "again.mp4": ("kept", 1),
    }  # fmt: skip
    assert counted["clips"] == 3 and counted["files"] == {"imported": 3, "kept": 1} and {row["scene"] for row in counted["sources"]} == {"a", "b", "c"}
    older = data(home, "show", listed["revisions"][1]["revision"][:8])
    assert [row["file"] for row in older["files"]] == ["a.mp4"]

    traced = data(home, "lineage", "b.mp4")
    (clip,) = traced["clips"]
    assert clip["source_sha256"] == traced["files"][0]["sha256"] and list(clip["shards"]) == [listed["revisions"][0]["revision"]]
    assert [(row["name"], row["version"]) for row in traced["models"]] == [(NAME, "1")] and traced["promotions"][0]["action"] == "promote"
    back = data(home, "lineage", f"{NAME}@champion")
    assert {row["source_file"] for row in back["clips"]} == {"a.mp4", "b.mp4", "c.mp4"}
    assert {row["file"] for row in back["files"]} == {"a.mp4", "again.mp4", "b.mp4", "c.mp4"}

    gone = data(home, "withdraw", "b.mp4", "--reason", "consent withdrawn")
    assert gone["versions"] == [f"{NAME}@1"] and list(gone["clips"]) == [clip["clip_id"]]
    fates = {row["file"]: (row["fate"], row["clips"], row["why"]) for row in data(home, "show")["files"]}
    assert fates["b.mp4"] == ("withdrawn", 0, "consent withdrawn") and fates["a.mp4"][:2] == ("imported", 1)

    registry = str(home / "registry")
    assert {row.scene for row in earlier_clips(registry).clips} == {"a", "c"}
    for name, settings in (("again", {}), ("replaced", {"append": False})):
        with environment(MOWORLD_HOME=str(home)):
            collected, _, clips = run(home, f"work-{name}", home / "two", **settings)
        assert {row["file"]: row["why"] for row in collected["files"]}["b.mp4"] == "withdrawn: consent withdrawn"
        assert "b" not in {row.scene for row in clips}
    assert {row.scene for row in read_manifest(home / "work-replaced/clips")} == {"again", "c"}
