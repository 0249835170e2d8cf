"""The clips of a model, and the models of a clip, by the revision of the data."""

from functools import cache
from typing import Any

from moworld.errors import InputError
from moworld_ops.components.platform.registry import ModelRegistry, Version
from moworld_ops.components.platform.revisions import newest_revision, read_index
from moworld_ops.pipelines.runs import all_runs

CLIP_FACTS = ("clip_id", "split", "source", "scene", "video_sha256", "caption")


def lineage_of(name: str, registry: str, tracking: str = "") -> dict[str, Any]:
    """Returns the lineage of a model (NAME@ALIAS, NAME@NUMBER, NAME) or of a clip (clip_id or video_sha256).

    Raises InputError if there is no such model or clip.
    """
    models = ModelRegistry(tracking)
    if name.partition("@")[0] in models.names():
        return lineage_of_model(models.find(name), registry)
    found = lineage_of_clip(name, models, registry)
    if not (found["models"] or found["decisions"] or found["in_newest_revision"]):
        known = ", ".join(models.names()) or "none registered yet"
        fix = "see 'moworld release list' and the index of the features"
        raise InputError("lineage", name, "no such model or clip", f"a registered model ({known}), a clip_id or a video's SHA-256", fix)
    return found


def lineage_of_model(version: Version, registry: str) -> dict[str, Any]:
    """Returns the run, code, data revision and contracts of a version, and every clip of that revision."""
    facts = {key: version.tags.get(key, "") for key in ("run", "git_commit", "data_revision", "contract_version", "model_sha256")}
    clips = [{key: row[key] for key in CLIP_FACTS} for row in _index(registry, facts["data_revision"])]
    return {"kind": "model", "name": version.name, "version": version.version, "aliases": list(version.aliases), **facts, "clips": clips}


def lineage_of_clip(clip: str, models: ModelRegistry, registry: str) -> dict[str, Any]:
    """Returns every version whose data has the clip, whether the newest data has it, and why runs rejected it."""
    trained = []
    for version in (version for name in models.names() for version in models.versions(name)):
        revision = version.tags.get("data_revision", "")
        for row in _rows_of_clip(clip, registry, revision):
            facts = {"name": version.name, "version": version.version, "aliases": list(version.aliases), "split": row["split"]}
            trained.append({**facts, "clip_id": row["clip_id"], "run": version.tags.get("run", ""), "data_revision": revision})
    newest = newest_revision(registry)
    decisions = [
        {"run": run.name, "step": step, **{key: row[key] for key in ("rule", "value", "threshold")}}
        for run in all_runs()
        for step, _, rows in run.rejections()
        for row in rows
        if row["clip_id"] == clip
    ]
    there = newest if _rows_of_clip(clip, registry, newest) else ""
    return {"kind": "clip", "name": clip, "models": trained, "in_newest_revision": there, "decisions": decisions}


def _rows_of_clip(clip: str, registry: str, revision: str) -> list[dict[str, Any]]:
    return [row for row in _index(registry, revision) if clip in (row["clip_id"], row["video_sha256"])]


@cache
def _index(registry: str, revision: str) -> tuple[dict[str, Any], ...]:
    return tuple(read_index(registry, revision)) if revision else ()
