"""Lineage over the data registry, the runs and the model registry: from a source file to what learned from it, and back."""

from typing import Any

from moworld.errors import InputError
from moworld_ops.components.platform.ledger import MOVES
from moworld_ops.components.platform.registry import ModelRegistry, Version
from moworld_ops.pipelines.data_set import Revision, find_revision, matches, revisions
from moworld_ops.pipelines.runs import Run, all_runs
from moworld_ops.pipelines.steward import rows_of

CLIP_FACTS = ("clip_id", "split", "source", "scene", "source_file", "source_sha256", "video_sha256", "caption", "shard")
PROMOTION = ("action", "model", "version", "time", "reason")


def lineage_of(name: str, registry: str, tracking: str = "") -> dict[str, Any]:
    """Returns the lineage of a model (NAME@ALIAS, NAME@NUMBER, NAME), or of a clip or source (see `data_set.matches`).

    Raises InputError if there is no such model, clip or source.
    """
    models = ModelRegistry(tracking)
    if name.partition("@")[0] in models.names():
        return lineage_of_model(models.find(name), models, registry)
    found = lineage_of_clips(name, models, registry)
    if not (found["clips"] or found["decisions"] or found["files"]):
        known = ", ".join(models.names()) or "none registered yet"
        expected = f"a registered model ({known}), a source, its file, a clip_id or a SHA-256"
        fix = "see 'moworld release list' and 'moworld data show'"
        raise InputError("lineage", name, "no such model or clip", expected, fix)
    return found


def lineage_of_model(version: Version, models: ModelRegistry, registry: str) -> dict[str, Any]:
    """Returns the run, code, data revision and contracts of a version, its promotions, and every clip and source file of that revision."""
    facts = {key: version.tags.get(key, "") for key in ("run", "git_commit", "data_revision", "contract_version", "model_sha256")}
    data = find_revision(registry, facts["data_revision"]) if facts["data_revision"] else Revision("", [], [], [])
    clips = [{key: row[key] for key in CLIP_FACTS} for row in data.clips]
    contents = {row["source_sha256"] for row in clips}
    files = [row for row in data.files() if row["sha256"] and row["sha256"] in contents]
    promotions = _promotions(models, [version])
    found = {"kind": "model", "name": version.name, "version": version.version, "aliases": list(version.aliases), **facts}
    return {**found, "clips": clips, "files": files, "promotions": promotions}


def lineage_of_clips(name: str, models: ModelRegistry, registry: str) -> dict[str, Any]:
    """Returns what became of a clip or of all clips of a source.

    files:      the source files with their fate in the newest revision
    clips:      the clips, each with the revisions that have it and its shards there
    runs:       runs that have one of the clips, or made or read one of these revisions
    models:     every version that was trained on one of these revisions, once for each of the clips
    promotions: lines of the ledger that made one of these versions champion
    decisions:  why runs rejected clips
    """
    known = revisions(registry)
    clips: dict[str, dict[str, Any]] = {}
    for revision in known:
        for row in (row for row in revision.clips if matches(row, name)):
            clip = clips.setdefault(row["clip_id"], {key: row[key] for key in CLIP_FACTS if key != "shard"} | {"shards": {}})
            clip["shards"][revision.name] = row["shard"]
    having = {revision for clip in clips.values() for revision in clip["shards"]}
    newest = known[0] if known else Revision("", [], [], [])
    contents = {clip["source_sha256"] for clip in clips.values()} - {None}
    files = [row for row in newest.files() if row["sha256"] in contents or name in (row["file"], row["source"], row["sha256"], row["place"])]
    versions = [version for model in models.names() for version in models.versions(model) if version.tags.get("data_revision") in having]
    trained = [
        {"name": version.name, "version": version.version, "aliases": list(version.aliases), "split": clip["split"],
         "clip_id": clip["clip_id"], "run": version.tags.get("run", ""), "data_revision": version.tags["data_revision"]}
        for version in versions for clip in clips.values() if version.tags["data_revision"] in clip["shards"]
    ]  # fmt: skip
    runs, decisions = list[str](), list[dict[str, Any]]()
    for run in all_runs():
        rejected = _decisions(run, name, {row["sha256"] for row in files} - {""})
        made = run.output("annotate", "captioned")
        if rejected or run.record.get("data_revision") in having or any(matches(row, name) for row in (rows_of(made) if made else [])):
            runs.append(run.name)
        decisions += rejected
    there = newest.name if newest.name in having else ""
    found = {"kind": "clip", "name": name, "models": trained, "in_newest_revision": there, "decisions": decisions}
    return {**found, "files": files, "clips": list(clips.values()), "runs": runs, "promotions": _promotions(models, versions)}


def _decisions(run: Run, name: str, contents: set[str]) -> list[dict[str, Any]]:
    """Returns why a run rejected clips of this name, or of originals by SHA-256."""
    found = []
    for step, folder, reasons in run.rejections():
        rows = {row["clip_id"]: row for row in rows_of(folder)}
        for reason in reasons:
            row = rows.get(reason["clip_id"])
            if reason["clip_id"] == name or (row and (matches(row, name) or row.get("source_sha256") in contents)):
                facts = {key: reason[key] for key in ("clip_id", "rule", "value", "threshold")}
                found.append({"run": run.name, "step": step, **facts, "repeats": reason.get("repeats")})
    return found


def _promotions(models: ModelRegistry, versions: list[Version]) -> list[dict[str, Any]]:
    """Returns the lines of the ledger that made one of these versions champion, oldest first."""
    chosen = {(version.name, str(version.version)) for version in versions}
    lines = [line for line in models.ledger.entries() if line["action"] in MOVES]
    return [{key: line.get(key, "") for key in PROMOTION} for line in lines if (line["model"], str(line["version"])) in chosen]
