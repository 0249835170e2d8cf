"""The store on the volume of a cluster: bytes that steps do not move, and what happens to them."""

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from moworld.errors import InputError
from moworld.files import atomic_folder, link_or_copy, sha256_tree, write_json
from moworld_ops.components.platform.exchange import stage_in, stage_out
from moworld_ops.components.platform.leftovers import remove_stored
from moworld_ops.components.platform.steps import recorded
from moworld_ops.components.platform.store import POINTER, SMALL_BYTES, input_path, output_path

FOOTAGE = os.urandom(SMALL_BYTES)


@pytest.fixture
def pod(tmp_path, monkeypatch):
    """Makes this process a step of a run in a pod, and gives an artifact as KFP would."""
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "volume" / "home"))

    def enter(step: str, run: str = "run-1", name: str = "clips") -> SimpleNamespace:
        for key, value in {"CONTEXT": json.dumps({"step": step}), "RUN": run, "NAMESPACE": "moworld", "NODE": ""}.items():
            monkeypatch.setenv(f"MOWORLD_{key}", value)
        return SimpleNamespace(name=name, path=str(tmp_path / "pod" / run / step / name), metadata={})

    return enter


def write(artifact: SimpleNamespace, clips: SimpleNamespace | None = None, **files: bytes) -> None:
    """Runs a step that writes files beside those of its input, as the data steps do."""
    with recorded(artifact), atomic_folder(output_path(artifact)) as folder:
        for path in Path(input_path(clips)).iterdir() if clips else ():
            link_or_copy(path, folder / path.name)
        for name, data in files.items():
            (folder / name).write_bytes(data)


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_crosses_between_steps_is_below_one_percent_of_the_footage(pod, tmp_path, monkeypatch):
    raw = pod("collect")
    write(raw, film=FOOTAGE)
    read = []
    monkeypatch.setattr("moworld_ops.components.platform.store.sha256_file", lambda path: read.append(path.stat().st_size) or "0" * 64)
    clips = raw
    for step in ("complete_geometry", "check_quality", "annotate"):
        before, clips = clips, pod(step)
        write(clips, before, **{step: b"measures"})
    assert bytes_below(tmp_path / "pod") < len(FOOTAGE) / 100 and sum(read) < len(FOOTAGE) / 100
    films = {path.stat().st_ino for path in (tmp_path / "volume").rglob("film")}
    assert len(films) == 1, "one copy on the volume"


def test_an_input_is_what_the_step_before_has_written(pod):
    first = pod("collect")
    write(first, film=FOOTAGE, manifest=b"rows")
    pointer = json.loads(Path(first.path, POINTER).read_text())
    pod("annotate")
    found = Path(input_path(first))
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {"film": FOOTAGE, "manifest": b"rows"}
    assert pointer == {"sha256": sha256_tree(found), "bytes": len(FOOTAGE) + 4, "files": 2, "path": str(found)}
    shutil.rmtree(found)
    with pytest.raises(InputError, match=r"stored.json: sha256: found [0-9a-f]{64}, which is not in .*; run the step"):
        input_path(first)
    Path(first.path, POINTER).write_text('{"sha256": "../../../etc"}')
    with pytest.raises(InputError, match="an entry of the store"):
        input_path(first)


def test_a_small_output_is_uploaded_and_outside_a_pod_there_is_no_store(pod, tmp_path, monkeypatch):
    small = pod("benchmark", name="metrics")
    write(small, metrics=b"{}")
    assert [path.name for path in Path(small.path).iterdir()] == ["metrics"] and input_path(small) == small.path
    assert bytes_below(tmp_path / "volume") == 0
    for key in ("RUN", "NAMESPACE", "CONTEXT"):
        monkeypatch.delenv(f"MOWORLD_{key}")
    local = SimpleNamespace(name="clips", path=str(tmp_path / "local" / "clips"), metadata={})
    assert output_path(local) == local.path
    write(local, film=FOOTAGE)
    assert Path(local.path, "film").stat().st_size == len(FOOTAGE)


def test_a_repeated_or_doubled_step_costs_nothing(pod, tmp_path):
    for run in ("run-1", "run-1", "run-2"):
        write(pod("collect", run), film=FOOTAGE)
    assert len(list((tmp_path / "volume").rglob("film"))) == 1
    (users,) = (tmp_path / "volume/home/store/runs").iterdir()
    assert sorted(path.name for path in users.iterdir()) == ["run-1", "run-2"]


def test_a_step_that_fails_or_was_killed_leaves_nothing_half_written(pod, tmp_path):
    clips = pod("collect")
    killed = Path(output_path(clips))
    killed.mkdir(parents=True)
    (killed / "half").write_bytes(b"half")
    write(clips, film=FOOTAGE)
    assert [path.name for path in Path(input_path(clips)).iterdir()] == ["film"]
    failing = pod("annotate")
    with pytest.raises(ZeroDivisionError), recorded(failing):
        Path(output_path(failing)).mkdir(parents=True)
        raise ZeroDivisionError
    assert not Path(failing.path).exists() and not list((tmp_path / "volume/home/store/incoming").rglob("annotate"))
    assert bytes_below(tmp_path / "volume/home/store/incoming") == 0


def test_a_launcher_gives_its_ranks_paths_and_links_their_results(pod, tmp_path):
    features, volume = pod("cache_features", name="features"), tmp_path / "volume"
    write(features, shard=FOOTAGE)
    model = pod("train_curriculum-1", name="model")
    exchanges = [volume / "m-high", volume / "m-low"]
    with recorded(model):
        out = output_path(model)
        for expert, exchange in zip(("high", "low"), exchanges, strict=True):
            stage_in(exchange, {"features": input_path(features), "out": out})
            arguments = json.loads((exchange / "arguments.json").read_text())
            assert arguments["features"] == input_path(features) and not (exchange / "in").exists()
            Path(arguments["out"]).mkdir()
            Path(arguments["out"], expert).write_bytes(FOOTAGE)
            write_json(Path(arguments["out"], "losses.json"), {expert: [1.0]})
            write_json(exchange / "summary.json", {expert: 1})
        for _ in range(2):  # a restarted launcher repeats it
            assert stage_out(exchanges, Path(out)) == {"high": 1, "low": 1}
            assert [json.loads((one / "out" / "losses.json").read_text()) for one in exchanges] == [{"high": [1.0]}, {"low": [1.0]}]
        assert all(Path(out, one).stat().st_ino == (exchange / "out" / one).stat().st_ino for one, exchange in zip(("high", "low"), exchanges, strict=True))
    found = Path(input_path(model))
    assert json.loads((found / "losses.json").read_text()) == {"high": [1.0], "low": [1.0]}
    assert bytes_below(Path(model.path)) < 1000


def test_entries_that_no_run_needs_are_removed_a_month_after_their_last_use(pod, tmp_path):
    old, used, working = pod("collect", "a"), pod("collect", "b"), pod("collect", "c")
    for run, artifact, extra in (("a", old, b"1"), ("b", used, b"2"), ("c", working, b"3")):
        pod("collect", run)
        write(artifact, film=FOOTAGE, extra=extra)
    pod("collect", "killed")
    Path(output_path(old)).mkdir()
    long_ago = time.time() - 40 * 86400
    for path in (tmp_path / "volume/home/store").rglob("*"):
        os.utime(path, (long_ago, long_ago))
    pod("annotate", "d")
    input_path(used)
    removed = remove_stored(tmp_path / "volume", lambda run: run != "c", 30 * 86400)
    assert removed == [json.loads(Path(old.path, POINTER).read_text())["sha256"]]
    assert input_path(used) and input_path(working)
    with pytest.raises(InputError):
        input_path(old)
    assert not list((tmp_path / "volume/home/store/incoming").glob("*"))
    assert {path.name for path in (tmp_path / "volume/home/store/hashes").iterdir()} == {Path(input_path(one)).name for one in (used, working)}
