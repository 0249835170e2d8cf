"""Withdrawal of footage: a data revision without it, what learned from it, and a gate that fails from then on.

The ledger gets one line with the clips, the revisions that contain them and the reason. Versions that were trained on one of these
revisions fail the gate on withdrawn data (`releases.decide`); a champion among them goes on serving until it is rolled back.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld_ops.components.platform.dataset import clips_folder, record_data_set, withdraw_clips
from moworld_ops.components.platform.ledger import WITHDRAW
from moworld_ops.components.platform.registry import ModelRegistry
from moworld_ops.components.platform.revisions import link_revision, record_revision
from moworld_ops.pipelines.data_set import matches, revisions
from moworld_ops.pipelines.runs import all_runs
from moworld_ops.pipelines.steward import rows_of


@dataclass(frozen=True)
class Reach:
    """What a withdrawal touches.

    clips:     clip_id to SHA-256 of the video, of all revisions and runs
    revisions: data revisions that contain one of the clips, newest first
    shards:    revision to its shards with one of the clips
    runs:      runs that read or made one of these revisions, or have one of the clips among their outputs
    versions:  NAME@NUMBER of registered models that were trained on one of these revisions
    champions: those of them that are champion
    newest:    the newest revision, if it contains one of the clips; else ""
    """

    name: str
    clips: dict[str, str]
    revisions: list[str]
    shards: dict[str, list[str]]
    runs: list[str]
    versions: list[str]
    champions: list[str]
    newest: str


def reach(name: str, registry: str, models: ModelRegistry) -> Reach:
    """Returns what the withdrawal of a source or clip touches.

    name: a scene (file stem or level), its file or that file's SHA-256, a clip_id, or the SHA-256 of a clip's video
    registry: folder of the data registry
    Raises InputError if neither a revision nor a run has it.
    """
    clips: dict[str, str] = {}
    shards: dict[str, list[str]] = {}
    known = revisions(registry)
    for revision in known:
        for row in (row for row in revision.clips if matches(row, name)):
            clips[row["clip_id"]] = row["video_sha256"]
            shards.setdefault(revision.name, [])
            if row["shard"] not in shards[revision.name]:
                shards[revision.name].append(row["shard"])
    runs = []
    for run in all_runs():
        made = run.output("annotate", "captioned")
        found = [row for row in rows_of(made) if matches(row, name)] if made and made.is_dir() else []
        clips |= {row["clip_id"]: row["video_sha256"] for row in found}
        if found or run.record.get("data_revision") in shards:
            runs.append(run.name)
    if not clips:
        scenes = sorted({row["scene"] for revision in known for row in revision.clips})
        expected = f"a source ({', '.join(scenes[:8]) or 'none yet'}), a clip_id or a video's SHA-256"
        raise InputError("data withdraw", name, "no such source or clip", expected, "see 'moworld data list'")
    versions = [version for model in models.names() for version in models.versions(model) if version.tags.get("data_revision") in shards]
    champions = [f"{one.name}@{one.version}" for one in versions if "champion" in one.aliases]
    newest = known[0].name if known else ""
    learned = [f"{one.name}@{one.version}" for one in versions]
    return Reach(name, clips, list(shards), shards, runs, learned, champions, newest if newest in shards else "")


def withdraw(found: Reach, registry: str, remote: str, models: ModelRegistry, reason: str) -> dict[str, Any]:
    """Makes a revision without the clips, records the withdrawal in the ledger, and returns the facts of its line.

    The line comes first: a withdrawal that is interrupted afterwards fails the gate already, and is completed by repeating it.
    Raises InputError if nothing would be left, or for a manager whose key the registry does not trust.
    """
    from moworld.data.features import FeatureStore, write_without

    facts = {"source": found.name, "clips": found.clips, "revisions": found.revisions, "versions": found.versions, "reason": reason.strip()}
    with tempfile.TemporaryDirectory(prefix=".withdraw-", dir=Path(registry).absolute().parent) as scratch:  # so that files are hard links
        rest, clips = Path(scratch, "rest"), Path(scratch, "clips")
        if found.newest:
            link_revision(registry, found.newest, Path(scratch, "features"))
            store = FeatureStore(Path(scratch, "features"))
            if all(row.clip_id in found.clips for row in store.clips):
                fix = "import other footage first (moworld data import)"
                raise InputError("data withdraw", found.name, "all clips of the newest revision", "a revision that keeps some", fix)
            write_without(store, rest, set(found.clips))
            if clips_folder(registry, found.newest).is_dir():
                withdraw_clips(registry, found.newest, found.clips, clips, reason.strip())
        with models.ledger.locked():
            models.ledger.append({"action": WITHDRAW, "model": "", **facts})
        revision, message = "", f"withdraw {found.name}: {reason.strip()}"
        if clips.is_dir():
            revision = record_data_set(str(rest), str(clips), registry, remote, message)
        elif found.newest:
            revision = record_revision(str(rest), registry, message, remote)
    return {**asdict(found), **facts, "revision": revision}


def bytes_of(found: Reach, registry: str, delete: bool = False) -> list[str]:
    """Returns the files that an erasure deletes; with `delete`, deletes them.

    They are the clips' in runs, whether accepted or rejected, features with them in runs, the clips that are kept for the next import, the
    frame hashes, the cache of encoded clips, whose names do not have the clip, and their shards in DVC's cache and remote. Older revisions
    keep their index and lose these shards.
    """
    from moworld.data.duplicates import hash_file
    from moworld.files import read_json_object
    from moworld_ops.components.platform.home import home
    from moworld_ops.components.platform.revisions import stored_shards

    files = set((home() / "encoded").rglob("*.safetensors"))
    files |= {hash_file(home() / "frame-hashes", video) for video in found.clips.values()}
    kept = clips_folder(registry, found.newest) if found.newest else None
    for run in [*(home() / "runs" / name for name in found.runs), *([kept] if kept else [])]:
        for folder in {path.parent for path in (*run.rglob("manifest.parquet"), *run.rglob("index.parquet"))}:
            files |= {path for row in rows_of(folder) if row["clip_id"] in found.clips or matches(row, found.name) for path in _files(folder, row)}
        for path in run.rglob("done.json"):  # of a video that was imported, in the run's checkpoints
            if any(row["clip_id"] in found.clips or matches(row, found.name) for row in read_json_object(path).get("clips", [])):
                files |= set(path.parent.rglob("*"))
    local = sorted(path for path in files if path.is_file())
    if delete:
        for path in local:
            path.unlink()
    return [*map(str, local), *(path for revision, names in found.shards.items() for path in stored_shards(registry, revision, names, delete))]


def _files(folder: Path, row: dict[str, Any]) -> list[Path]:
    """Returns the files of a row of a clips folder or of a feature index."""
    from moworld.data.clips import FILE_COLUMNS

    return [folder / row[column] for column in (*FILE_COLUMNS, "shard") if row.get(column)]
