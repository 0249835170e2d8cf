"""From a model to the clips that it learned from, and from a clip to the models that learned from it: both by the data's revision."""

from functools import cache
from typing import Any

from components.platform.registry import ModelRegistry, Version
from components.platform.revisions import newest_revision, read_index
from moworld.errors import InputError
from moworld.files import read_json
from pipelines.report import quarantine
from pipelines.runs import all_runs

CLIP_FACTS = ("clip_id", "split", "source", "scene", "video_sha256", "caption")
DECIDING = ("complete_geometry", "check_quality", "annotate")


def of(name: str, registry: str, tracking: str = "") -> dict[str, Any]:
    """Lineage of a model (NAME@ALIAS, NAME@NUMBER, NAME) or of a clip (its clip_id or video_sha256), whichever the name is.

    Raises InputError where it is neither.
    """
    models = ModelRegistry(tracking)
    if name.partition("@")[0] in models.names():
        return of_model(models.find(name), registry)
    found = of_clip(name, models, registry)
    if not (found["models"] or found["decisions"] or found["in_newest_revision"]):
        known = ", ".join(models.names()) or "none registered yet"
        mend = "see 'moworld release list' and the index of the features"
        raise InputError("lineage", name, "no such model or clip", f"a registered model ({known}), a clip_id or a video's SHA-256", mend)
    return found


def of_model(version: Version, registry: str) -> dict[str, Any]:
    """The run, code, data revision and contracts of a version, and every clip of that revision."""
    facts = {key: version.tags.get(key, "") for key in ("run", "git_commit", "data_revision", "contract_version", "model_sha256")}
    rows = _index(registry, facts["data_revision"]) if facts["data_revision"] else ()
    clips = [{key: row[key] for key in CLIP_FACTS} for row in rows]
    return {"kind": "model", "name": version.name, "version": version.version, "aliases": list(version.aliases), **facts, "clips": clips}


def of_clip(clip: str, models: ModelRegistry, registry: str) -> dict[str, Any]:
    """Every registered version whose data holds the clip, whether the newest data does, and why runs rejected it."""
    learned = []
    for name in models.names():
        for version in models.versions(name):
            revision = version.tags.get("data_revision", "")
            for row in _index(registry, revision) if revision else ():
                if clip in (row["clip_id"], row["video_sha256"]):
                    facts = {"name": name, "version": version.version, "aliases": list(version.aliases), "split": row["split"]}
                    learned.append({**facts, "clip_id": row["clip_id"], "run": version.tags.get("run", ""), "data_revision": revision})
    newest = newest_revision(registry)
    there = [row["clip_id"] for row in (_index(registry, newest) if newest else ()) if clip in (row["clip_id"], row["video_sha256"])]
    return {"kind": "clip", "name": clip, "models": learned, "in_newest_revision": newest if there else "", "decisions": _decisions(clip)}


def _decisions(clip: str) -> list[dict[str, Any]]:
    made = []
    for run in all_runs():
        for step in DECIDING:
            folder = quarantine(run, step)
            if folder is not None and (folder / "reasons.json").is_file():
                reasons = [row for row in read_json(folder / "reasons.json") if row["clip_id"] == clip]
                made += [{"run": run.name, "step": step, **{k: row[k] for k in ("rule", "value", "threshold")}} for row in reasons]
    return made


@cache
def _index(registry: str, revision: str) -> tuple[dict[str, Any], ...]:
    return tuple(read_index(registry, revision))
