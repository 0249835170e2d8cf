"""Facts about a data revision for `moworld data list`, `show`, `stats` and `lineage`: its clips, and the fate of every file ever seen."""

import io
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from moworld.data.discovery import Fate
from moworld.data.history import IMPORTED, REJECTED, SOURCES, Rejection, rows_from
from moworld.errors import InputError
from moworld.files import read_parquet
from moworld_ops.components.platform.dataset import CLIPS
from moworld_ops.components.platform.revisions import indexed_revisions, read_part

FACTS = ("source_file", "source_sha256", "source_start", "fps", "caption_source")  # of a clip, beside the columns of the index


@dataclass(frozen=True)
class Revision:
    """A data revision: rows of its index with FACTS of each clip, its files, and the rejections of all imports that it unites."""

    name: str
    clips: list[dict[str, Any]]
    sources: list[Fate]
    rejected: list[Rejection]

    def files(self) -> list[dict[str, Any]]:
        """Returns every file ever seen with its fate in this revision, and its clips and rejected clips.

        A file that was imported has the fate `rejected` if contracts rejected all its clips, and `replaced` if this revision has none of
        them because it did not extend the one that had.
        """
        kept = Counter(clip["source_sha256"] for clip in self.clips)
        broken: dict[str, set[str]] = defaultdict(set)
        lost: dict[str, set[str]] = defaultdict(set)
        for entry in self.rejected:
            broken[entry.source_sha256].add(f"{entry.rule} ({entry.contract})")
            lost[entry.source_sha256].add(entry.clip_id)
        rows = []
        for source in self.sources:
            fate, why = source.fate, source.why
            if fate == IMPORTED and not kept[source.sha256]:
                fate = "rejected" if lost[source.sha256] else "replaced"
            if fate in (IMPORTED, "rejected") and broken[source.sha256]:
                why = "; ".join([*([why] if why else []), *sorted(broken[source.sha256])])
            counts = {"clips": kept[source.sha256] if source.sha256 else 0, "rejected": len(lost[source.sha256]) if source.sha256 else 0}
            rows.append({**asdict(source), "fate": fate, "why": why, **counts})
        return rows

    def statistics(self) -> dict[str, Any]:
        """Returns hours, frames and clips in all, per source and split, the files by fate, and the rejected clips by rule."""
        groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
        for clip in self.clips:
            groups[clip["source"], clip["scene"], clip["split"]].append(clip)
        sources = [{"source": key[0], "scene": key[1], "split": key[2], **_measures(own)} for key, own in sorted(groups.items())]
        splits = {split: _measures([c for c in self.clips if c["split"] == split]) for split in sorted({c["split"] for c in self.clips})}
        rules = {(entry.contract, entry.rule, entry.clip_id) for entry in self.rejected}
        rejected = Counter(f"{contract}: {rule}" for contract, rule, _ in rules)
        return {
            "revision": self.name, **_measures(self.clips), "splits": splits, "sources": sources,
            "files": dict(sorted(Counter(row["fate"] for row in self.files()).items())),
            "rejected": dict(rejected.most_common()), "rejected_clips": len({entry.clip_id for entry in self.rejected}),
        }  # fmt: skip


def _measures(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the number of clips, their frames and their hours; hours are None if a frame rate is unknown."""
    seconds = [clip["num_frames"] / clip["fps"] if clip["fps"] else None for clip in clips]
    known = [value for value in seconds if value is not None]
    hours = round(sum(known) / 3600, 4) if len(known) == len(seconds) else None
    return {"clips": len(clips), "frames": sum(clip["num_frames"] for clip in clips), "hours": hours}


def revisions(registry: str) -> list[Revision]:
    """Returns the data revisions, newest first; [] for a registry without data."""
    return [_revision(registry, name, index) for name, index in indexed_revisions(registry).items()]


def find_revision(registry: str, name: str = "") -> Revision:
    """Returns a revision by the start of its name; "" for the newest. Raises InputError if there is not exactly one."""
    indexes = indexed_revisions(registry)
    found = [one for one in indexes if one.startswith(name)][: None if name else 1]
    if len(found) != 1:
        known = ", ".join(one[:12] for one in list(indexes)[:5]) or "none yet"
        raise InputError("data", "revision", f"{name or 'no data'}: {len(found)} revisions", f"one of {known}", "see 'moworld data list'")
    return _revision(registry, found[0], indexes[found[0]])


def matches(row: dict[str, Any], name: str) -> bool:
    """Returns whether a clip's row belongs to a name: source (file stem or level), file, SHA-256 of the file, clip_id, SHA-256 of its video."""
    return name in (row["scene"], row["clip_id"], row["video_sha256"], row.get("source_file"), row.get("source_sha256"))


def _revision(registry: str, name: str, index: list[dict[str, Any]]) -> Revision:
    clips = {row["clip_id"]: row for row in _rows(registry, name, CLIPS)}
    rows = [{**{key: clips.get(row["clip_id"], {}).get(key) for key in FACTS}, **row} for row in index]
    sources, rejected = (_rows(registry, name, part) for part in (SOURCES, REJECTED))
    return Revision(name, rows, rows_from(sources, Fate), rows_from(rejected, Rejection))


def _rows(registry: str, revision: str, name: str) -> list[dict[str, Any]]:
    """Returns the rows of a Parquet file of a revision; [] for a revision without it."""
    content = read_part(registry, revision, name)
    return list(read_parquet(io.BytesIO(content)).to_pylist()) if content else []
