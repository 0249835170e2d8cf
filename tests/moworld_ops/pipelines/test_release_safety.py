"""`moworld release` moves, deletes and prints only what it says, whatever others did to the registry."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from moworld_ops.components.platform import releases
from moworld_ops.components.platform.ledger import WITHDRAW
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.components.platform.tracking import sqlite_file, sqlite_uri
from moworld_ops.components.platform.verification import verify_release
from tests.moworld_ops.components.platform.registries import GATES, NAME, forget, run_folder, sql, state


def test_a_printed_comparison_has_the_numbers_of_each_metric(home, moworld):
    status, out, _ = moworld("compare", f"{NAME}@4", f"{NAME}@3")
    rows = {cells[0]: cells[1:3] for line in out.splitlines() if len(cells := [one.strip() for one in line.strip("│").split("│")]) == 5}
    assert status == 0 and rows["frames_per_second"] == ["24", "23"] and rows["student_next_chunk_psnr"] == ["19.8", "20"]
    assert rows["drift"] == ["1.5", "1.5"] and rows["nested.number"] == ["4", "3"]


@pytest.mark.parametrize("source", ["source", "file:///elsewhere/{run}/model", "models:/{name}/1"])
@pytest.mark.parametrize("other", [NAME, "another-model"])
def test_files_that_a_kept_version_has_are_not_deleted_with_another(home, source, other):
    """MLflow's button "Register model" makes a second version of a run."""
    registry = ModelRegistry()
    first = registry.version(NAME, "1")
    if other != NAME:
        registry.client.create_registered_model(other)
    text = first.source if source == "source" else source.format(run=first.run_id, name=NAME)
    registry.client.create_model_version(other, text, first.run_id if source == "source" else None)
    assert "1" in [version.version for version in releases.collect(registry, NAME, 1, remove=True)]
    assert (run_folder(home, "3") / "model").is_dir() and registry.artifacts(first).names()


@pytest.mark.parametrize("name", ["%73tate", "a?b=c", "a%3Fb", "100%", "a#b", "a&b c", "é%c3%a9"])
def test_a_state_folder_is_the_one_that_is_named(home, tmp_path, monkeypatch, name):
    copy = tmp_path / name
    shutil.copytree(home, copy)
    before = state(home)
    monkeypatch.setenv("MOWORLD_HOME", str(copy))
    registry = ModelRegistry(create=False)
    assert registry.file == copy / "mlflow" / "mlflow.db" == sqlite_file(sqlite_uri(registry.file))
    assert releases.rollback(registry, NAME).version == "2" and verify_release(registry, registry.find(NAME)) == 4
    assert state(home) == before and state(copy) != before
    assert Path(run_folder(copy, "1")).is_relative_to(registry.folder)


# patches


@pytest.mark.parametrize("patch", ["a directory", "/proc/player.yaml", "/dev/full", "file/player.yaml", "", "x" * 300])
@pytest.mark.parametrize("command", ["rollback", "promote"])
def test_a_patch_that_cannot_be_written_moves_nothing(home, tmp_path, moworld, profile, command, patch):
    (tmp_path / "a directory").mkdir()
    (tmp_path / "file").write_text("")
    before = state(home)
    arguments = (NAME,) if command == "rollback" else (f"{NAME}@4", "--profile", profile)
    status, out, err = moworld(command, *arguments, "--patch", tmp_path / patch)
    assert (status, out) == (2, "") and "expected" in err and len(err.splitlines()) == 1
    assert state(home) == before and not list((tmp_path / "a directory").iterdir())


# a ledger that was erased, or cut at its end


def cut(home: Path, lines: int) -> None:
    """Cuts the ledger after some lines, and MLflow's tags and aliases with it."""
    if lines:
        sql(home, "DELETE FROM moworld_ledger WHERE position >= ?", lines)
        sql(home, "UPDATE registered_model_aliases SET version = ? WHERE alias = 'champion'", lines - 1)
        entries = ModelRegistry().ledger.rows()
        sql(home, "UPDATE registered_model_tags SET value = ? WHERE key = 'ledger_head'", json.loads(entries[-1][0])["hash"])
        return
    sql(home, "DROP TABLE moworld_ledger")
    sql(home, "DELETE FROM registered_model_tags")
    sql(home, "DELETE FROM registered_model_aliases WHERE alias = 'champion'")


@pytest.mark.parametrize("lines", [0, 2, 3])
@pytest.mark.parametrize("command", ["verify", "promote", "rollback", "trust", "history"])
def test_a_ledger_that_lost_lines_that_this_machine_saw_is_found(home, moworld, profile, lines, command):
    cut(home, lines)
    after = sorted(path for path in home.rglob("*"))
    arguments = {"verify": (f"{NAME}@2",), "promote": (f"{NAME}@4", "--profile", profile), "trust": (home / "keys" / "signing.pub", "--name", "x")}
    status, out, err = moworld(command, *arguments.get(command, (NAME,)))
    assert (status, out) == (1, "") and "was seen here" in err and len(err.splitlines()) == 1
    assert [path for path in sorted(home.rglob("*")) if path.suffix != ".lock"] == [path for path in after if path.suffix != ".lock"]


def test_a_machine_that_never_saw_a_registry_says_so_and_a_pinned_key_ends_that(home, moworld, monkeypatch):
    status, _, err = moworld("verify", NAME)
    assert status == 0 and err == ""
    forget(home)
    status, out, err = moworld("verify", NAME, "--json")
    assert status == 0 and not json.loads(out)["ledger_key_pinned"] and "MOWORLD_SIGNING_PUBLIC_KEY" in err
    assert not (home / "keys" / "registries").exists()
    monkeypatch.setenv("MOWORLD_SIGNING_PUBLIC_KEY", str(home / "keys" / "signing.pub"))
    assert moworld("verify", NAME)[2] == ""
    cut(home, 0)
    status, out, err = moworld("verify", f"{NAME}@2")
    assert (status, out) == (1, "") and "no signed line" in err


# withdrawn footage


def withdraw(number: str, revision: str = "") -> None:
    facts = {"source": "film", "clips": [], "reason": "licence ended"}
    facts |= {"versions": [f"{NAME}@{number}"] if number else [], "revisions": [revision] if revision else []}
    ModelRegistry().ledger.append({"action": WITHDRAW, "model": "", **facts})


@pytest.mark.parametrize("named", [("2", ""), ("", "abc")])
@pytest.mark.parametrize("command", ["rollback", "adopt"])
def test_a_version_of_withdrawn_footage_does_not_become_champion_again(home, moworld, named, command):
    withdraw(*named)
    if command == "adopt":
        sql(home, "UPDATE registered_model_aliases SET version = 2 WHERE alias = 'champion'")
    before = state(home)
    status, out, err = moworld(command, NAME, "--reason", "dark")
    assert (status, out) == (1, "") and "film (licence ended)" in err and state(home) == before
    assert moworld(command, NAME, "--reason", "dark", "--override", "for a day")[0] == 0
    line = ModelRegistry().entries(NAME)[-1]
    assert (line["version"], line["reason"], line["override"], line["verdict"][0]["passed"]) == ("2", "dark", "for a day", False)
    status, out, err = moworld("verify", f"{NAME}@2")
    assert status == 0 and "withdrawn footage: film" in err


# the champion, promoted again


@pytest.mark.parametrize("override", [False, True])
def test_the_champion_that_fails_its_gates_is_not_promoted_again_in_silence(home, tmp_path, moworld, profile, override):
    before = state(home)
    status, out, _ = moworld("promote", f"{NAME}@3", "--profile", profile, "--reason", "again")
    assert status == 0 and "already champion; nothing was recorded" in out and state(home) == before
    values = yaml.safe_load(profile.read_text())
    values["gates"] = [gate.model_dump(exclude_defaults=True) for gate in (*GATES, GATES[3].model_copy(update={"at_least": 90.0}))]
    profile.write_text(yaml.safe_dump(values))
    status, out, err = moworld("promote", f"{NAME}@3", "--profile", profile, *(("--override", "it stays") if override else ()))
    if not override:
        assert (status, out) == (1, "") and "frames_per_second at least 90" in err and state(home) == before
        return
    assert status == 0 and "despite 1 failed gates" in out
    line = ModelRegistry().entries(NAME)[-1]
    assert (line["version"], line["previous"], line["override"]) == ("3", "3", "it stays")
    assert releases.rollback(ModelRegistry(), NAME).version == "2"


def test_the_champion_is_not_promoted_again_by_a_key_that_is_not_trusted(home, tmp_path, moworld, profile, monkeypatch):
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path / "bob"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(home / "mlflow" / "mlflow.db"))
    status, out, err = moworld("promote", f"{NAME}@3", "--profile", profile)
    assert (status, out) == (2, "") and "does not trust" in err


# an alias that is gone


@pytest.mark.parametrize("alias", ["", "9"])
def test_a_champion_s_alias_that_is_gone_is_found_and_restored(home, moworld, alias):
    sql(home, "DELETE FROM registered_model_aliases WHERE alias = 'champion'")
    if alias:
        sql(home, "INSERT INTO registered_model_aliases (alias, version, name) VALUES ('champion', ?, ?)", int(alias), NAME)
    for command in (("verify", NAME), ("rollback", NAME)):
        status, out, err = moworld(*command)
        assert (status, out) == (1, "") and "release adopt" in err
    assert moworld("adopt", NAME, "--reason", "removed by mistake")[0] == 0
    assert moworld("verify", NAME)[0] == 0 and ModelRegistry().find(NAME).version == "3"
    assert moworld("rollback", NAME)[0] == 0 and ModelRegistry().find(NAME).version == "2"


def test_an_adoption_of_a_deleted_champion_goes_to_the_former_one(home, moworld):
    ModelRegistry().client.delete_model_version(NAME, "3")
    assert moworld("verify", NAME)[0] == 1
    status, out, _ = moworld("adopt", NAME, "--reason", "3 was deleted")
    assert status == 0 and "version 2" in out and moworld("verify", NAME)[0] == 0


def test_a_comparison_has_the_ledger_s_champion(home, moworld):
    sql(home, "UPDATE registered_model_aliases SET version = 1 WHERE alias = 'champion'")
    for reference in ((), (f"{NAME}@champion",)):
        status, out, err = moworld("compare", f"{NAME}@4", *reference, "--json")
        assert status == 0 and json.loads(out)["champion"] == "3" and "alias champion of moworld-trust is 1" in err


def test_gates_judge_the_ledger_s_champion_wherever_the_alias_is(home, moworld, profile):
    sql(home, "UPDATE registered_model_aliases SET version = 1 WHERE alias = 'champion'")
    for reference in (f"{NAME}@champion", NAME):
        found = json.loads(moworld("gates", reference, "--profile", profile, "--json")[1])
        assert (found["version"], found["champion"]) == ("3", "3")


# mistakes


def test_a_name_of_a_manager_is_given_and_not_taken(home, tmp_path, moworld):
    import subprocess

    key = tmp_path / "bob.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", key.with_suffix(".pub")], check=True, capture_output=True)
    own = ModelRegistry().ledger.entries()[0]["name"]
    before = state(home)
    for name in ("", " ", own, f" {own.upper()} "):
        status, out, err = moworld("trust", key.with_suffix(".pub"), "--name", name)
        assert (status, out) == (2, "") and "--name" in err and state(home) == before
    assert moworld("trust", key.with_suffix(".pub"), "--name", "bob")[0] == 0


@pytest.mark.parametrize("command", [("rollback", NAME, "--to", ""), ("verify", "nobody@1"), ("compare", "nobody@1"), ("adopt", "nobody", "--reason", "x")])
def test_a_mistake_names_what_there_is(home, moworld, command):
    before = state(home)
    status, out, err = moworld(*command)
    assert (status, out) == (2, "") and ("an earlier champion: 1, 2" in err or f"one of: {NAME}" in err) and state(home) == before
