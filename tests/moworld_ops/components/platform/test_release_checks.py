"""The release chain checks what it uses: copied registries, keys, rollbacks, aliases moved outside, foreign evidence, rewritten ledgers."""

import json
import os
import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from moworld.errors import InputError, IntegrityError
from moworld.files import sha256_tree
from moworld_ops.components.platform import keys, ledger, releases, signing
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.components.platform.serving import fetch
from moworld_ops.components.platform.steps import Refused
from moworld_ops.components.platform.verification import verified_folder, verify_release, verify_version
from tests.moworld_ops.components.platform.registries import GATES, NAME, forget, promote, register_version, run_folder, sql, state
from tests.moworld_ops.components.platform.test_verification import flip_byte, rehashed, write_rows

CASES = range(20)


def damage(folder: Path, chance: random.Random) -> None:
    """Changes or deletes one file of a version, or adds one."""
    path = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    kind = chance.choice(["flip", "delete", "add"])
    if kind == "flip":
        flip_byte(path, chance)
    elif kind == "delete":
        path.unlink()
    else:
        (folder / chance.choice(["model", "evidence"]) / "added").write_bytes(b"")


# copied registries


@pytest.mark.parametrize("seed", CASES)
def test_a_copied_registry_is_verified_by_its_own_files(promoted_home, home, seed):
    chance = random.Random(seed)
    version = chance.choice("123")
    if seed % 2:  # as registries before recorded it: an absolute path, here of the original
        sql(home, "UPDATE model_versions SET source = 'file://' || ? || '/mlflow/' || source", str(promoted_home))
    before, registry = sha256_tree(promoted_home / "mlflow" / "artifacts"), ModelRegistry()
    assert verify_release(registry, registry.version(NAME, version)) == 3
    damage(run_folder(home, version), chance)
    with pytest.raises(IntegrityError):
        verify_release(registry, registry.version(NAME, version))
    assert sha256_tree(promoted_home / "mlflow" / "artifacts") == before


def test_a_version_registered_in_a_copy_is_stored_there(promoted_home, home, tmp_path):
    before = sha256_tree(promoted_home / "mlflow" / "artifacts")
    version = register_version(tmp_path, 5)
    assert (run_folder(home, "5") / "model" / "model_index.json").is_file()
    assert verify_version(ModelRegistry(), version).evidence["model"] == NAME
    assert sha256_tree(promoted_home / "mlflow" / "artifacts") == before


# keys


def pem(key, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_ways(home: Path, tmp_path: Path) -> dict[str, dict[str, str]]:
    """Puts the public key where a verification may find it; returns the variables of each way."""
    own, other = (home / "keys" / "signing.pub").read_bytes(), public_pem(ec.generate_private_key(ec.SECP384R1()))
    folder = tmp_path / "public"
    folder.mkdir()
    (tmp_path / "alone.pub").write_bytes(own)
    (tmp_path / "both.pub").write_bytes(other + own)
    (tmp_path / "other.pub").write_bytes(other)
    (folder / "a.pub").write_bytes(other)
    (folder / "b.pub").write_bytes(own)
    return {
        "registry": {},
        "file": {keys.PUBLIC: str(tmp_path / "alone.pub")},
        "two keys in a file": {keys.PUBLIC: str(tmp_path / "both.pub")},
        "directory": {keys.PUBLIC: str(folder)},
        "two files": {keys.PUBLIC: os.pathsep.join(str(tmp_path / name) for name in ("other.pub", "alone.pub"))},
    }


@pytest.mark.parametrize("private", ["kept", "gone", "all gone", "elsewhere"])
@pytest.mark.parametrize("way", ["registry", "file", "two keys in a file", "directory", "two files"])
def test_verification_needs_a_public_key_only_and_writes_nothing(home, tmp_path, monkeypatch, way, private):
    for variable, value in public_ways(home, tmp_path)[way].items():
        monkeypatch.setenv(variable, value)
    if private == "elsewhere":
        shutil.move(home / "keys" / "signing.pem", tmp_path / "elsewhere.pem")
        monkeypatch.setenv(keys.KEY, str(tmp_path / "elsewhere.pem"))
    elif private == "gone":
        (home / "keys" / "signing.pem").unlink()
    elif private == "all gone":
        shutil.rmtree(home / "keys")
    before = sha256_tree(tmp_path)
    registry = ModelRegistry(create=False)
    assert verify_release(registry, registry.find(NAME)) == 3
    assert sha256_tree(tmp_path) == before


UNUSABLE = {
    "RSA": lambda: pem(rsa.generate_private_key(65537, 2048)),
    "Ed25519": lambda: pem(ed25519.Ed25519PrivateKey.generate()),
    "DSA": lambda: pem(dsa.generate_private_key(1024)),
    "secp256k1": lambda: pem(ec.generate_private_key(ec.SECP256K1())),
    "encrypted": lambda: pem(ec.generate_private_key(ec.SECP256R1()), b"secret"),
    "wrong password": lambda: pem(ec.generate_private_key(ec.SECP256R1()), b"secret"),
    "needless password": lambda: pem(ec.generate_private_key(ec.SECP256R1())),
    "public": lambda: public_pem(ec.generate_private_key(ec.SECP256R1())),
    "empty": lambda: b"",
    "bytes": lambda: bytes(range(256)),
    "cut": lambda: pem(ec.generate_private_key(ec.SECP256R1()))[:90],
}


@pytest.mark.parametrize("kind", [*UNUSABLE, "missing"])
def test_an_unusable_private_key_is_refused_in_one_line(home, tmp_path, monkeypatch, kind):
    path = tmp_path / "key.pem"
    if kind in UNUSABLE:
        path.write_bytes(UNUSABLE[kind]())
    monkeypatch.setenv(keys.KEY, str(path))
    if kind.endswith("password"):
        monkeypatch.setenv(keys.PASSWORD, "guess")
    before = sha256_tree(tmp_path)
    with pytest.raises(InputError) as caught:
        signing.sign(run_folder(home, "1") / "model", tmp_path / "out.sig")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and sha256_tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["RSA", "Ed25519", "secp256k1", "private", "empty", "bytes", "missing", "empty directory"])
def test_an_unusable_public_key_is_refused_in_one_line(home, tmp_path, monkeypatch, kind):
    made = {"RSA": lambda: rsa.generate_private_key(65537, 2048), "Ed25519": ed25519.Ed25519PrivateKey.generate}
    path = tmp_path / "key.pub"
    if kind == "empty directory":
        path.mkdir()
    elif kind != "missing":
        key = made.get(kind, lambda: ec.generate_private_key(ec.SECP256K1() if kind == "secp256k1" else ec.SECP256R1()))()
        path.write_bytes({"private": pem(key), "empty": b"", "bytes": bytes(range(256))}.get(kind, public_pem(key)))
    monkeypatch.setenv(keys.PUBLIC, str(path))
    registry = ModelRegistry()
    with pytest.raises(InputError) as caught:
        verify_release(registry, registry.version(NAME, "3"))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_an_encrypted_key_signs_and_the_package_for_signatures_agrees(tmp_path, monkeypatch, home, curve):
    from model_signing import verifying

    (tmp_path / "key.pem").write_bytes(pem(key := ec.generate_private_key(curve()), b"secret"))
    (tmp_path / "key.pub").write_bytes(public_pem(key))
    monkeypatch.setenv(keys.KEY, str(tmp_path / "key.pem"))
    monkeypatch.setenv(keys.PASSWORD, "secret")
    model = run_folder(home, "1") / "model"
    signing.sign(model, tmp_path / "model.sig")
    assert len(signing.verify(model, tmp_path / "model.sig")) == 2
    package = verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pub")
    package.verify(model, tmp_path / "model.sig")
    flip_byte(model / "model_index.json", random.Random(0))
    with pytest.raises(IntegrityError, match="model_index"):
        signing.verify(model, tmp_path / "model.sig")
    with pytest.raises(ValueError, match="mismatch"):
        package.verify(model, tmp_path / "model.sig")


def test_a_second_manager_s_key_is_trusted_then_revoked(home, tmp_path, monkeypatch):
    registry = ModelRegistry()
    (tmp_path / "bob.pem").write_bytes(pem(key := ec.generate_private_key(ec.SECP256R1())))
    (tmp_path / "bob.pub").write_bytes(public_pem(key))
    with monkeypatch.context() as bob:
        bob.setenv(keys.KEY, str(tmp_path / "bob.pem"))
        before = state(home)
        with pytest.raises(InputError, match="does not trust"):
            releases.rollback(registry, NAME)
        assert state(home) == before
    added = releases.trust(registry, tmp_path / "bob.pub", "bob")
    with monkeypatch.context() as bob:
        bob.setenv(keys.KEY, str(tmp_path / "bob.pem"))
        releases.rollback(registry, NAME, reason="dark")
    assert registry.entries(NAME)[-1]["by"] == "bob" and verify_release(registry, registry.find(NAME)) == 4
    releases.revoke(registry, added.fingerprint[:12], "bob left", False)
    assert verify_release(registry, registry.find(NAME)) == 4
    with monkeypatch.context() as bob, pytest.raises(InputError, match="does not trust"):
        bob.setenv(keys.KEY, str(tmp_path / "bob.pem"))
        releases.rollback(registry, NAME)
    (last,) = ledger.trusted_keys(registry.ledger.entries())
    with pytest.raises(InputError, match="another that remains"):
        releases.revoke(registry, last, "mistake", False)


# rollbacks


@pytest.mark.parametrize("seed", CASES)
def test_a_rollback_onto_a_changed_or_deleted_version_changes_nothing(home, seed):
    chance, registry = random.Random(seed), ModelRegistry()
    to = ("", "1", "2")[seed % 3]
    target = to or "2"
    if to and chance.random() < 0.3:
        sql(home, "DELETE FROM model_version_tags WHERE version = ?", target)
        sql(home, "DELETE FROM model_versions WHERE version = ?", target)
    else:
        damage(run_folder(home, target), chance)
    before = state(home)
    with pytest.raises(InputError):
        releases.rollback(registry, NAME, to)
    assert state(home) == before


@pytest.mark.parametrize("to", ["3", "4", "9", "x", "champion"])
def test_a_rollback_to_what_was_no_earlier_champion_changes_nothing(home, to):
    before = state(home)
    with pytest.raises(InputError, match="an earlier champion: 1, 2"):
        releases.rollback(ModelRegistry(), NAME, to)
    assert state(home) == before


def test_rollbacks_skip_a_deleted_version_and_go_to_a_named_one(home):
    registry = ModelRegistry()
    assert releases.rollback(registry, NAME, "1").version == "1"
    assert promote(registry, "3").version == "3"
    registry.client.delete_model_version(NAME, "1")
    with pytest.raises(InputError, match="no earlier champion that still exists"):
        releases.rollback(registry, NAME)
    assert releases.rollback(registry, NAME, "2").version == "2"  # it was a champion once
    assert releases.rollback(registry, NAME).version == "3"
    assert verify_release(registry, registry.find(NAME)) == 7


# an alias that was moved outside


@pytest.mark.parametrize("moved", ["1", "2", "4", "9", ""])
@pytest.mark.parametrize("command", ["promote", "rollback", "gc", "verify"])
def test_an_alias_moved_outside_is_found_and_blocks(home, moved, command):
    sql(home, "DELETE FROM registered_model_aliases WHERE alias = 'champion'")
    if moved:
        sql(home, "INSERT INTO registered_model_aliases (alias, version, name) VALUES ('champion', ?, ?)", int(moved), NAME)
    before, registry = state(home), ModelRegistry()
    with pytest.raises(IntegrityError, match="alias champion"):
        if command == "promote":
            promote(registry, "4", override="now")
        elif command == "rollback":
            releases.rollback(registry, NAME)
        elif command == "gc":
            releases.collect(registry, NAME, 1, remove=True)
        else:
            verify_release(registry, registry.version(NAME, "3"))
    assert state(home) == before
    assert releases.decide(registry, registry.version(NAME, "4"), GATES, "", verify_version(registry, registry.version(NAME, "4"))).champion == "3"


@pytest.mark.parametrize("reference", [NAME, f"{NAME}@champion"])
def test_what_is_served_under_a_champion_s_name_is_the_ledger_s(home, tmp_path, reference):
    sql(home, "UPDATE registered_model_aliases SET version = 1 WHERE alias = 'champion'")
    for serve in (lambda: fetch(reference, tmp_path), lambda: verified_folder(reference)):
        with pytest.raises(IntegrityError, match=r"alias champion.*found 1, expected 3, as in the ledger.*release adopt"):
            serve()
    assert not (tmp_path / "current").exists()
    assert fetch(f"{NAME}@1", tmp_path).is_dir() and verified_folder(f"{NAME}@1").is_dir()
    sql(home, "UPDATE registered_model_aliases SET version = 3 WHERE alias = 'champion'")
    assert fetch(reference, tmp_path).is_dir() and verified_folder(reference).is_dir()


@pytest.mark.parametrize("changed", [False, True])
def test_a_moved_alias_is_adopted_with_a_reason_unless_its_version_was_changed(home, changed):
    sql(home, "UPDATE registered_model_aliases SET version = 1 WHERE alias = 'champion'")
    registry = ModelRegistry()
    with pytest.raises(InputError, match="--reason"):
        releases.adopt(registry, NAME, " ")
    if changed:
        damage(run_folder(home, "1"), random.Random(1))
        before = state(home)
        with pytest.raises(IntegrityError):
            releases.adopt(registry, NAME, "by mistake")
        assert state(home) == before
        return
    assert releases.adopt(registry, NAME, "moved in the browser").version == "1"
    assert registry.entries(NAME)[-1]["reason"] == "moved in the browser"
    assert verify_release(registry, registry.find(NAME)) == 4
    with pytest.raises(InputError, match="nothing to record"):
        releases.adopt(registry, NAME, "again")


# evidence of another version


@pytest.mark.parametrize(("source", "target"), [(one, other) for one in "1234" for other in "1234" if one != other])
@pytest.mark.parametrize("tags", [False, True])
def test_the_files_of_another_version_do_not_verify(home, source, target, tags):
    shutil.rmtree(run_folder(home, target))
    shutil.copytree(run_folder(home, source), run_folder(home, target))
    registry = ModelRegistry()
    if tags:
        for key, value in registry.version(NAME, source).tags.items():
            sql(home, "UPDATE model_version_tags SET value = ? WHERE version = ? AND key = ?", value, int(target), key)
        one, other = (registry.version(NAME, number).run_id for number in (source, target))
        sql(home, "DELETE FROM latest_metrics WHERE run_uuid = ?", other)
        columns = "key, value, timestamp, step, is_nan"
        sql(home, f"INSERT INTO latest_metrics ({columns}, run_uuid) SELECT {columns}, ? FROM latest_metrics WHERE run_uuid = ?", other, one)
    with pytest.raises(IntegrityError, match="version in the signed evidence" if tags else "signed evidence"):
        verify_version(registry, registry.version(NAME, target))


def test_a_version_of_another_model_and_one_with_evidence_of_old_do_not_verify(home, tmp_path):
    register_version(tmp_path, 1, "moworld-other")
    sql(home, "UPDATE registered_models SET name = 'moworld-third' WHERE name = 'moworld-other'")
    for table in ("model_versions", "model_version_tags", "registered_model_aliases", "registered_model_tags"):
        sql(home, f"UPDATE {table} SET name = 'moworld-third' WHERE name = 'moworld-other'")
    registry = ModelRegistry()
    with pytest.raises(IntegrityError, match="model in the signed evidence"):
        verify_version(registry, registry.version("moworld-third", "1"))
    evidence = run_folder(home, "1") / "evidence"
    values = json.loads((evidence / "evidence.json").read_text())
    assert values["images"] and values["version"] == "1" and {"profile", "git_commit", "data_revision"} <= values.keys()
    for key in ("model", "version", "images"):
        del values[key]
    (evidence / "evidence.json").write_text(json.dumps(values))
    signing.sign(evidence, evidence.parent / "evidence.sig")
    with pytest.raises(IntegrityError, match="registered before evidence named its model"):
        verify_version(registry, registry.version(NAME, "1"))


# the ledger


@pytest.mark.parametrize("seed", CASES)
def test_a_ledger_that_was_rewritten_whole_with_new_hashes_is_found(home, tmp_path, monkeypatch, seed):
    chance, registry = random.Random(seed), ModelRegistry()
    rows = registry.ledger.rows()
    place = chance.randrange(len(rows))
    entry = json.loads(rows[place][0])
    key = chance.choice(sorted(entry.keys() - {"hash", "before", "index", "action"}))
    rows[place] = (ledger.encode({**entry, key: "other"}), rows[place][1])
    rows = rehashed(rows)
    if seed % 2:  # and signed again, by a key that this machine has never seen
        (tmp_path / "forger.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
        with monkeypatch.context() as forger:
            forger.setenv(keys.KEY, str(tmp_path / "forger.pem"))
            public = keys.signing_key()[1]
            entries = [{**json.loads(text), "key": public.fingerprint} for text, _ in rows]
            entries[0] |= {"public_key": public.pem}
            rows = rehashed([(ledger.encode(entry), "") for entry in entries])
            rows = [(text, keys.encode(keys.sign(text.encode())[0])) for text, _ in rows]
    write_rows(home / "mlflow" / "mlflow.db", rows)
    sql(home, "UPDATE registered_model_tags SET value = ? WHERE key = 'ledger_head'", json.loads(rows[-1][0])["hash"])
    with pytest.raises(IntegrityError, match=r"line|keys"):
        verify_release(registry, registry.find(NAME))
    with pytest.raises(IntegrityError):
        promote(registry, "4", override="now")


@pytest.mark.parametrize("variable", ["LOGNAME", "USER", "LNAME", "USERNAME"])
def test_who_promoted_is_no_variable_and_an_override_is_recorded_even_if_the_gates_pass(home, monkeypatch, variable):
    monkeypatch.setenv(variable, "mallory")
    registry = ModelRegistry()
    promote(registry, "4", override="the demonstration is tomorrow")
    entry = registry.entries(NAME)[-1]
    assert all(row["passed"] for row in entry["verdict"])
    assert entry["override"] == entry["reason"] == "the demonstration is tomorrow"
    assert "mallory" not in entry["by"] + entry["account"] and entry["account"] == keys.account()


@pytest.mark.parametrize("hours", [0.1, 1, 24, 24 * 365])
def test_a_clock_behind_the_last_line_is_refused(home, hours):
    registry = ModelRegistry()
    entries = registry.ledger.entries()
    later = datetime.now(UTC) + timedelta(hours=hours)
    line = {**entries[-1], "time": later.isoformat(timespec="seconds")}
    line["hash"] = ledger.entry_hash(line)
    text = ledger.encode(line)
    forget(home)
    sql(home, "UPDATE moworld_ledger SET line = ?, signature = ? WHERE position = ?", text, keys.encode(keys.sign(text.encode())[0]), line["index"])
    sql(home, "UPDATE registered_model_tags SET value = ? WHERE key = 'ledger_head'", line["hash"])
    before = state(home)
    with pytest.raises(InputError, match="clock"):
        releases.rollback(registry, NAME)
    assert state(home) == before


# gates


@pytest.mark.parametrize("gone", ["evidence", "evidence/metrics.json", "evidence.sig", "model", "."])
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("override", ["", "the champion's disk is gone"])
def test_a_champion_without_files_does_not_block_a_promotion(home, gone, recorded, override):
    path = run_folder(home, "3") / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    registry = ModelRegistry()
    if not recorded:  # as in lines before the ledger recorded metrics
        entries = [{key: value for key, value in entry.items() if key != "metrics"} for entry in registry.ledger.entries()]
        rows = rehashed([(ledger.encode(entry), "") for entry in entries])
        forget(home)
        write_rows(home / "mlflow" / "mlflow.db", [(text, keys.encode(keys.sign(text.encode())[0])) for text, _ in rows])
        sql(home, "UPDATE registered_model_tags SET value = ? WHERE key = 'ledger_head'", json.loads(rows[-1][0])["hash"])
    if recorded or override or gone == "model":  # the model itself is not compared
        assert promote(registry, "4", override=override).aliases == ("champion",)
    else:
        with pytest.raises(Refused, match="metrics of champion version 3"):
            promote(registry, "4")
