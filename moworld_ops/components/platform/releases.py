"""Moves of alias `champion`: promote, roll back, adopt, and the removal of versions that no rule keeps.

Every move verifies the version first and is decided again under the registry's lock, so that two managers cannot overtake each other.
The ledger's line is written before the alias moves; a command that finds a line whose alias did not move completes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moworld.errors import InputError, IntegrityError
from moworld.evaluation.gate_policy import UNGUARDED, incomplete, weakened
from moworld.evaluation.gates import Gate, failures, verdict
from moworld.evaluation.metrics import METRICS
from moworld_ops.components.platform import keys
from moworld_ops.components.platform.ledger import MOVES, REVOKE, TRUST, adoption, champion_of, champions, trusted_keys, withdrawals
from moworld_ops.components.platform.registry import HEAD, ModelRegistry, Version, is_unapplied
from moworld_ops.components.platform.steps import Refused
from moworld_ops.components.platform.verification import Verified, gate_facts, verify_evidence, verify_version

KEEP = 3  # newest versions, and earlier champions, that `collect` keeps


@dataclass(frozen=True)
class Decision:
    """A version and its gates: `champion` is the version that it was compared with, `rows` are as in `gates.verdict`."""

    version: Version
    champion: str | None
    rows: list[dict[str, Any]]

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["passed"] is False]


def recorded_gates(entries: Sequence[dict[str, Any]]) -> list[Gate]:
    """Returns the gates that the ledger records for a model line; [] before its first promotion. One of an unknown metric is left out."""
    return [Gate(**gate) for gate in _recorded(entries) if not _unknown(gate)]


def _recorded(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return next((entry["gates"] for entry in reversed(entries) if entry.get("gates")), [])


def _unknown(gate: dict[str, Any]) -> list[str]:
    """Returns the names in a recorded gate that are no metrics here, as after a metric was renamed."""
    return [name for name in (gate.get("metric"), gate.get("above")) if name and name not in METRICS]


def _unknown_rows(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a failed row for each recorded gate that cannot be judged here: it is dropped by an override, not in silence."""
    return [
        {"gate": f"{name}, as recorded", "metric": "gates", "value": "not a metric any more", "threshold": str(gate), "margin": None, "passed": False}
        for gate in _recorded(entries)
        for name in _unknown(gate)
    ]


def decide(registry: ModelRegistry, version: Version, gates: Sequence[Gate], profile: str, verified: Verified | InputError) -> Decision:
    """Judges a version by gates against the ledger's champion, and the gates by those that the ledger records.

    profile:  name of the profile with the gates; signed evidence that names another counts in its place
    verified: of `verify_version`, or its error
    """
    entries = registry.entries(version.name)
    champion = champion_of(entries)
    metrics = {} if isinstance(verified, InputError) else verified.metrics
    rows: list[dict[str, Any]] = []
    before = None
    if champion and champion != version.version:
        try:
            before = _champion_metrics(registry, version.name, champion, entries)
        except InputError as error:
            facts = {"metric": "champion", "value": str(error), "threshold": "readable", "margin": None, "passed": False}
            rows.append({"gate": f"metrics of champion version {champion}", **facts})
    rows = [*verdict(metrics, before, gates, gate_facts(verified)), *_withdrawn(registry, version, verified), *rows]
    if _recorded(entries):
        rows += [*weakened(recorded_gates(entries), gates), *_unknown_rows(entries)]
    elif _profile(verified, profile) not in UNGUARDED:
        rows += incomplete(gates)
    return Decision(version, champion, rows)


def promote(
    registry: ModelRegistry,
    version: Version,
    gates: Sequence[Gate],
    profile: str = "",
    reason: str = "",
    override: str = "",
    run: str = "",
) -> tuple[Version, Decision]:
    """Promotes a verified version to champion and returns it with the decision.

    Promoting the champion again records nothing if its gates pass; with an override, failed ones are recorded.
    reason, run: recorded in the ledger; override: why failed gates are accepted, recorded whether one failed or not
    Raises IntegrityError for a version that was changed or an alias that was moved outside, Refused for failed gates without override.
    """
    verified = verify_version(registry, version)
    with registry.ledger.locked():
        entries = recover(registry, version.name)
        chosen = registry.version(version.name, version.version)
        if chosen.tags.get("model_sha256") != verified.model_sha256:
            raise IntegrityError(f"model {version.name}", version.version, "another model than a moment ago", "the verified one", "try again")
        decision = decide(registry, chosen, gates, profile, verified)
        if decision.champion == chosen.version:
            registry.ledger.check_trusted()
            if not decision.failed:
                return chosen, decision
        if decision.failed and not override.strip():
            details = {"name": chosen.name, "version": chosen.version, "champion_before": decision.champion, "gates": decision.rows}
            state = "is champion, but fails" if decision.champion == chosen.version else "was not promoted"
            raise Refused(f"{chosen.name} version {chosen.version} {state}: {failures(decision.rows)}", {**details, "promoted": False})
        facts: dict[str, Any] = {"reason": reason.strip() or override.strip(), "override": override.strip(), "run": run}
        facts |= {"verdict": decision.rows, "profile": _profile(verified, profile), "data_revision": verified.evidence.get("data_revision", "")}
        facts |= {"gates": [gate.model_dump(exclude_defaults=True) for gate in gates], "metrics": _known_metrics(verified.metrics)}
        if not facts["gates"] and _recorded(entries):
            del facts["gates"]  # an override does not remove the record
        return _move(registry, chosen, decision.champion, "promote", facts), decision


def rollback(registry: ModelRegistry, name: str, to: str | None = None, reason: str = "", override: str = "") -> Version:
    """Makes an earlier champion champion again and returns it, after verifying it.

    to: a version that was champion before; default: the previous champion, or the one before if that version was deleted
    override: why a version is accepted that learned from withdrawn footage
    Raises InputError if there is none, IntegrityError for one that was changed, Refused for withdrawn footage; then nothing changes.
    """
    verified: dict[str, Verified] = {}
    while True:
        with registry.ledger.locked():
            entries = recover(registry, name)
            target = _target(registry, name, entries, to)
            known = verified.get(target.version)
            if known and known.model_sha256 == target.tags.get("model_sha256"):
                facts = {"reason": reason.strip() or override.strip(), **_accepted(registry, target, known, override)}
                return _move(registry, target, champion_of(entries), "rollback", facts)
        verified[target.version] = verify_version(registry, target)  # not under the lock: a model may be large


def adopt(registry: ModelRegistry, name: str, reason: str, override: str = "") -> Version:
    """Records the version to which alias `champion` was moved outside, after verifying it, and returns it.

    An alias that is gone, or names a version that is gone, is restored: to the ledger's champion, or the newest former one that exists.
    override: why a version is accepted that learned from withdrawn footage
    Raises InputError if the alias is where the ledger says, or without a reason.
    """
    if not reason.strip():
        raise InputError("release adopt", "--reason", "nothing", "why the alias was moved outside", "pass --reason REASON")
    version, _ = _adopted(registry, name, registry.entries(name))
    verified = verify_version(registry, version)
    with registry.ledger.locked():
        entries = registry.entries(name, registry.ledger.remember())
        chosen, has_alias = _adopted(registry, name, entries)
        if has_alias and chosen.version == champion_of(entries):
            found = f"version {chosen.version}, as in the ledger"
            raise InputError(f"model {name}", "champion", found, "an alias that was moved outside", "nothing to record")
        if chosen.version != version.version:
            raise InputError(f"model {name}", "champion", "an alias that moves now", "one that stays", "try again")
        facts = {"reason": reason.strip(), "metrics": _known_metrics(verified.metrics), **_accepted(registry, chosen, verified, override)}
        return _move(registry, chosen, champion_of(entries), "adopt", facts)


def collect(registry: ModelRegistry, name: str, keep: int = KEEP, reason: str = "", remove: bool = False) -> list[Version]:
    """Returns the versions that no rule keeps, and deletes them if `remove`.

    Kept are versions with an alias, the champion, the last `keep` earlier champions that a rollback can reach, and the newest `keep`.
    """
    if keep < 1:
        raise InputError("release gc", "--keep", keep, "1 or more", "keep at least one earlier champion")
    with registry.ledger.locked():
        entries = recover(registry, name)
        versions = registry.versions(name)
        if not versions:
            registry.version(name, "champion")  # raises: no such model
        kept = {*champions(entries)[-keep - 1 :], *(version.version for version in versions[-keep:])}
        chosen = [version for version in versions if version.version not in kept and not version.aliases]
        if remove and chosen:
            facts = {"action": "gc", "model": name, "version": champion_of(entries), "keep": keep, "reason": reason.strip()}
            removed = {version.version: version.tags.get("model_sha256", "") for version in chosen}
            line = registry.ledger.append({**facts, "removed": removed})
            registry.store.move(name, {}, {HEAD: line["hash"]})
            for version in chosen:
                registry.remove(version)
    return chosen


def trust(registry: ModelRegistry, path: Path, name: str) -> keys.PublicKey:
    """Lists a public key as trusted and returns it.

    Raises InputError if it is listed, for a file that holds several, and for no name or that of another trusted key.
    """
    name = name.strip()
    if not name:
        raise InputError("release trust", "--name", "nothing", "the manager's name, as history shows it", "pass --name NAME")
    found = keys.read_public(path)
    if len(found) != 1:
        raise InputError(path, "", f"{len(found)} keys", "one public key", "pass one file per manager")
    with registry.ledger.locked():
        entries = registry.ledger.ensure()
        trusted = trusted_keys(entries)
        if name.casefold() in {one["name"].strip().casefold() for one in entries if one.get("public_key") in {key.pem for key in trusted.values()}}:
            raise InputError("release trust", "--name", name, "a name that no trusted key has", "choose another, or revoke the manager's former key")
        if found[0].fingerprint in trusted:
            raise InputError(path, "", "a key that is trusted already", "a new key", "see 'moworld release keys'")
        registry.ledger.append({"action": TRUST, "model": "", "public_key": found[0].pem, "name": name})
    return found[0]


def revoke(registry: ModelRegistry, fingerprint: str, reason: str, compromised: bool) -> str:
    """Removes a key from the trusted ones and returns its fingerprint. compromised: its signatures of models do not count any more.

    Raises InputError unless `fingerprint` begins exactly one key, and another trusted key remains.
    """
    with registry.ledger.locked():
        listed = trusted_keys(registry.ledger.entries())
        matches = [one for one in listed if fingerprint and one.startswith(fingerprint)]
        if len(matches) != 1 or len(listed) == 1:
            known = ", ".join(one[:12] for one in listed) or "none"
            expected = f"one of {known}, and another that remains"
            raise InputError("release revoke", fingerprint, f"{len(matches)} such keys", expected, "see 'moworld release keys'")
        facts = {"fingerprint": matches[0], "compromised": compromised, "reason": reason.strip()}
        registry.ledger.append({"action": REVOKE, "model": "", **facts})
    return matches[0]


def recover(registry: ModelRegistry, name: str) -> list[dict[str, Any]]:
    """Returns a model's ledger lines, after applying the last one if its writer died before MLflow was updated. The caller holds the lock.

    Raises IntegrityError if alias `champion` is elsewhere for another reason.
    """
    model, entries = registry.model(name), registry.entries(name, registry.ledger.remember())
    alias, head = (model.aliases.get("champion"), model.tags.get(HEAD)) if model else (None, None)
    champion = champion_of(entries)
    if is_unapplied(model, entries):
        if champion not in [version.version for version in registry.versions(name)]:
            found = "a version that was deleted before alias champion was moved to it"
            raise IntegrityError(f"model {name}", f"version {champion}", found, "the ledger's champion", adoption(name))
        registry.apply(name, {**entries[-1], "version": champion})
        return entries
    if entries and head not in (entries[-1]["hash"], entries[-2]["hash"] if entries[1:] else None):
        found, expected = f"the hash of an older line ({str(head)[:12]})", "that of the last line"
        raise IntegrityError(f"model {name}", f"tag {HEAD}", found, expected, "restore the registry from a copy")
    if alias != champion:
        found, expected = f"version {alias}" if alias else "no alias", f"version {champion}, as in the ledger" if champion else "none"
        raise IntegrityError(f"model {name}", "alias champion", found, expected, adoption(name))
    return entries


def _target(registry: ModelRegistry, name: str, entries: Sequence[dict[str, Any]], to: str | None) -> Version:
    versions = {version.version: version for version in registry.versions(name)}
    current, stack = champion_of(entries), champions(entries)
    earlier = [version for version in stack[:-1] if version != current]
    if to is not None:
        promoted = {str(entry["version"]) for entry in entries if entry["action"] in MOVES} - {current}
        if to not in promoted or to not in versions:
            known = ", ".join(sorted(promoted & versions.keys(), key=int)) or "none"
            found = "a deleted version" if to in promoted else "the champion" if to == current else "a version that was never promoted"
            raise InputError(f"model {name}", f"version {to}", found, f"an earlier champion: {known}", "see 'moworld release history'")
        return versions[to]
    for number in reversed(earlier):
        if number in versions:
            return versions[number]
    found = f"no earlier champion{' that still exists' if earlier else ''}"
    raise InputError(f"model {name}", "champion", found, "a version that was promoted before", "see 'moworld release history'")


def _adopted(registry: ModelRegistry, name: str, entries: Sequence[dict[str, Any]]) -> tuple[Version, bool]:
    """Returns the version that `adopt` records; True if alias `champion` names it. Raises InputError if there is none."""
    model = registry.model(name)
    versions = {version.version: version for version in registry.versions(name)}
    if model is None:
        registry.version(name, "champion")  # raises: no such model
    elif (alias := model.aliases.get("champion", "")) in versions:
        return versions[alias], True
    for number in reversed(champions(entries)):
        if number in versions:
            return versions[number], False
    found, fix = "no alias, and no former champion that exists", "set it in MLflow to a version, then adopt that one"
    raise InputError(f"model {name}", "alias champion", found, "an alias of a version", fix)


def _accepted(registry: ModelRegistry, version: Version, verified: Verified, override: str) -> dict[str, Any]:
    """Returns what the ledger records of withdrawn footage. Raises Refused if a version learned from some and there is no override."""
    rows = _withdrawn(registry, version, verified)
    if rows and not override.strip():
        text = f"{version.name} version {version.version} did not become champion: {failures(rows)}; --override REASON accepts it"
        raise Refused(text, {"name": version.name, "version": version.version, "gates": rows})
    return {"override": override.strip(), "verdict": rows} if override.strip() else {}


def _move(registry: ModelRegistry, chosen: Version, previous: str | None, action: str, facts: dict[str, Any]) -> Version:
    entry = {"action": action, "model": chosen.name, "version": chosen.version, "previous": previous}
    entry |= {"model_sha256": chosen.tags.get("model_sha256", ""), **facts}
    registry.apply(chosen.name, registry.ledger.append(entry))
    return registry.version(chosen.name, chosen.version)


def _champion_metrics(registry: ModelRegistry, name: str, champion: str, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the champion's metrics: from its signed ledger line, else from its signed evidence."""
    for entry in reversed(entries):
        if entry.get("version") == champion and "metrics" in entry:
            return dict(entry["metrics"])
    return verify_evidence(registry, registry.version(name, champion)).metrics


def _withdrawn(registry: ModelRegistry, version: Version, verified: Verified | InputError) -> list[dict[str, Any]]:
    """Returns a failed row for each withdrawal of footage that a version learned from."""
    revision = version.tags.get("data_revision", "") if isinstance(verified, InputError) else str(verified.evidence.get("data_revision", ""))
    found = withdrawals(registry.ledger.entries(), f"{version.name}@{version.version}", revision)
    facts = {"metric": "withdrawn", "threshold": "none", "margin": None, "passed": False}
    return [{"gate": "no withdrawn footage", "value": f"{entry['source']} ({entry['reason']})", **facts} for entry in found]


def _known_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name in METRICS and isinstance(value, int | float)}


def _profile(verified: Verified | InputError, profile: str) -> str:
    signed = "" if isinstance(verified, InputError) else str(verified.evidence.get("profile", ""))
    return signed or profile
