"""Step `merge_clips`: makes one clips folder of those of all partitions, and judges what only all of them decide.

These are duplicates between partitions, the share of clips that a contract may reject, and the splits. Pictures are not read.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moworld.data.clips import clip_of, manifest_schema
from moworld.data.history import merge_history
from moworld.data.merging import link_rows, merged_manifest, slices, write_table
from moworld.data.splits import require_splits
from moworld.files import atomic_folder, link_or_copy, read_json, write_json
from moworld_ops.components.clips import VERDICTS, keep_quarantine, rejections
from moworld_ops.components.platform.steps import Refused
from moworld_ops.data_contracts.check import check_table
from moworld_ops.data_contracts.load import load_contract

if TYPE_CHECKING:
    import pyarrow

CONTRACTS = ("clips", "geometry", "quality", "captions")


def merge_clips(
    parts: Sequence[str], quarantines: Sequence[str], out: str, quarantine: str, report: str, required_splits: Sequence[str] = ()
) -> dict[str, Any]:
    """Writes the accepted clips of all partitions to `out`, all rejected ones to `quarantine`, and the report; returns the summary.

    parts:       captioned clips folders of the partitions
    quarantines: those of their steps
    Files are hard links. A clip that repeats one of another partition is rejected by contract `quality`.
    Raises Refused when more clips are rejected than a contract allows, InputError if a required split has no clip.
    """
    table = merged_manifest(parts, similar=True)
    failures, accepted = _check(table)
    with atomic_folder(out) as good, atomic_folder(quarantine) as bad:
        kept, repeated = table.filter(accepted), table.filter(~accepted)
        del table
        reasons = _merge_quarantines(quarantines, repeated, parts, bad)
        reasons += [{"clip_id": failure["row"], "thumbnail": None, "explanation": None, **_reason(failure)} for failure in failures]
        write_json(bad / "reasons.json", reasons)
        lost_here = [clip_of(row) for row in repeated.select(manifest_schema().names).to_pylist()]
        merge_history(parts, good, rejections(lost_here, reasons[len(reasons) - len(failures) :]))
        lost, clips = _lost(quarantines, failures)
        names = ", ".join(load_contract(name).title for name in CONTRACTS)
        summary = {"contract": names, "rows": sum(clips.values()), "accepted": len(kept), "quarantined": len({row["clip_id"] for row in reasons})}
        for name in CONTRACTS:
            contract = load_contract(name)
            if not len(kept) or lost[name] > contract.max_rejected(clips[name]):
                first = next((reason for reason in reasons if reason["contract"] == name), reasons[0] if reasons else "no clip")
                keep_quarantine(bad)
                raise Refused(f"contract {contract.title} rejects {lost[name]} of {clips[name]} clips, first {first}", summary)
        splits = Counter(kept.column("split").to_pylist())
        require_splits("captioned clips", splits, required_splits)
        link_rows(kept, parts, good)
        write_table(good, kept)
        write_json(report, {**summary, "failures": failures, "lost": dict(lost), "partitions": len(parts)})
    return {**summary, "rows": max(clips.values(), default=0), "splits": dict(sorted(splits.items())), "captions": len(kept)}


def _check(table: "pyarrow.Table") -> tuple[list[dict[str, Any]], Any]:
    """Returns the failures of a merged table and the mask of its accepted rows. Slices bound the memory: ids are different already."""
    failures, accepted = list[dict[str, Any]](), np.ones(len(table), bool)
    for start, rows in slices(table):
        for name in CONTRACTS:
            found = check_table(rows, load_contract(name))
            failures += [{"contract": name, **failure} for failure in found.failures]
            own = np.zeros(len(rows), bool)
            own[found.accepted] = True
            accepted[start : start + len(rows)] &= own
    return failures, accepted


def _reason(failure: dict[str, Any]) -> dict[str, Any]:
    return {key: failure[key] for key in ("contract", "rule", "value", "threshold")}


def _lost(quarantines: Sequence[str], failures: list[dict[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Returns how many clips each contract rejects, and how many it has seen, over all partitions."""
    lost, clips = Counter[str](), Counter[str]()
    for folder in quarantines:
        verdict = read_json(Path(folder) / VERDICTS)
        for name, count in verdict["lost"].items():
            lost[name] += count
            clips[name] += verdict["clips"]
    for name, _ in {(failure["contract"], failure["row"]) for failure in failures}:
        lost[name] += 1
    return lost, clips


def _merge_quarantines(quarantines: Sequence[str], repeated: "pyarrow.Table", parts: Sequence[str], bad: Path) -> list[dict[str, Any]]:
    """Puts the rejected clips of all partitions, and the repeated ones, into one quarantine; returns the reasons of the former."""
    import pyarrow

    rejected = merged_manifest(quarantines)
    link_rows(rejected, quarantines, bad)
    link_rows(repeated, parts, bad)
    both = pyarrow.concat_tables([rejected, repeated]).sort_by("clip_id")
    write_table(bad, both)
    reasons, replaced = list[dict[str, Any]](), list[dict[str, Any]]()
    for folder in map(Path, quarantines):
        reasons += read_json(folder / "reasons.json")
        replaced += read_json(folder / "replaced.json") if (folder / "replaced.json").is_file() else []
        for thumbnail in sorted((folder / "thumbnails").glob("*.png")):
            link_or_copy(thumbnail, bad / "thumbnails" / thumbnail.name)
    write_json(bad / "replaced.json", replaced)
    return reasons
