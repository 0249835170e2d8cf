"""The filter by contracts with its quarantine, which several steps share."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from moworld.data.clips import Clip, link_files, read_manifest, write_manifest
from moworld.data.history import Rejection, carry
from moworld.files import atomic_folder, write_json
from moworld.video import read_frames
from moworld_ops.components.clip_pool import Failed
from moworld_ops.components.platform.context import context
from moworld_ops.components.platform.steps import Refused
from moworld_ops.data_contracts.check import check_rows
from moworld_ops.data_contracts.load import load_contract

VERDICTS = "verdicts.json"  # in the quarantine of a partition: number of clips, and for each contract how many of them it rejects
DUPLICATE = "no-near-duplicate"  # the rule whose reason names the clip that is repeated


def filter_clips(
    clips: str, out: str, quarantine: str, contracts: tuple[str, ...] | list[str], measure: Callable[[Path], list[Any]], judged: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measures clips, checks them against contracts and writes both folders; returns the summary and the full report.

    measure: maps a copy of the folder to its clips with their measures, in the order of the manifest. It may write files there. For one
             clip it may return a list of parts, or `Failed`. A clip counts as rejected only if all its parts are, or if it failed.
    judged:  whether the clips are a batch. The clips of a partition are not: merging judges those of all partitions, from VERDICTS.
    Raises Refused when the batch fails a contract.
    """
    with atomic_folder(out) as good, atomic_folder(quarantine) as bad:
        given = read_manifest(clips)
        for clip in given:
            link_files(clip, clips, good)
        made, broken = measure(good), list[dict[str, Any]]()
        for index, one in enumerate(made):
            if isinstance(one, Failed):
                made[index] = given[index]
                entry = {"contract": contracts[0], "row": given[index].clip_id, "rule": "can-be-processed"}
                broken.append({**entry, "value": one.reason, "threshold": "one of two attempts"})
        parts = [one if isinstance(one, list) else [one] for one in made]
        rows, sizes = [clip for made in parts for clip in made], [len(made) for made in parts]
        reports = [check_rows([asdict(clip) for clip in rows], load_contract(name)) for name in contracts]
        unusable = {entry["row"] for entry in broken}
        accepted = set(range(len(rows))).intersection(*(report.accepted for report in reports))
        accepted -= {index for index, clip in enumerate(rows) if clip.clip_id in unusable}
        found = [{"contract": report.contract, **failure} for report in reports for failure in report.failures]
        failures = broken + [failure for failure in found if failure["row"] not in unusable]
        rejected = [clip for index, clip in enumerate(rows) if index not in accepted]
        needed = {path for index in accepted for path in rows[index].files()}  # parts of a clip share files that are not per frame
        reasons = _quarantine(rejected, failures, good, bad, needed, unusable)
        write_manifest(good, [rows[index] for index in sorted(accepted)])
        write_manifest(bad, rejected)
        write_json(bad / "reasons.json", reasons)
        carry(clips, good, rejections(rejected, reasons))
        names = ", ".join(f"{report.contract} {report.version}" for report in reports)
        summary = {"contract": names, "rows": len(rows), "accepted": len(accepted), "quarantined": len(rejected)}
        details = {**summary, "failures": failures}
        if not judged:
            write_json(bad / VERDICTS, {"clips": len(sizes), "lost": {report.contract: report.lost(sizes) for report in reports}})
        for report in reports if judged else ():
            if report.batch_fails(sizes) or not accepted:
                first = next((reason for reason in reasons if reason["contract"] == report.contract), reasons[0] if reasons else "no clip")
                line = f"contract {report.contract} {report.version} rejects {report.lost(sizes)} of {len(sizes)} clips, first {first}"
                keep_quarantine(bad)
                raise Refused(line, details)
    return summary, details


def keep_quarantine(bad: Path) -> None:
    """Copies the quarantine of a refused batch into the run's folder, because the step's outputs are deleted."""
    place = context()
    if place.folder and place.step:
        kept = place.folder / "refused" / place.step
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(bad, kept)


def _quarantine(
    rejected: list[Clip], failures: list[dict[str, Any]], good: Path, bad: Path, needed: set[str], unusable: set[str]
) -> list[dict[str, Any]]:
    """Moves the files of rejected clips from `good` to `bad`; returns one reason per broken rule.

    Each gets a thumbnail, except the `unusable`, whose pictures may end the process that reads them.
    """
    reasons = []
    for clip in rejected:
        link_files(clip, good, bad)
        thumbnail = None if clip.clip_id in unusable else _thumbnail(read_frames(good / clip.video, 0, 1)[0], bad, clip.clip_id)
        for failure in failures:
            if failure["row"] == clip.clip_id:
                reason = {key: failure[key] for key in ("contract", "rule", "value", "threshold")}
                repeats = clip.similar_to if reason["rule"] == DUPLICATE else None
                reasons.append({"clip_id": clip.clip_id, "thumbnail": thumbnail, **reason, "explanation": clip.camera_mistake, "repeats": repeats})
    for path in {path for clip in rejected for path in clip.files()} - needed:
        (good / path).unlink()
    return reasons


def rejections(rejected: list[Clip], reasons: list[dict[str, Any]]) -> list[Rejection]:
    """Returns the rejected clips for the history, one row for each reason."""
    clips = {clip.clip_id: clip for clip in rejected}
    found = [(clips[reason["clip_id"]], reason) for reason in reasons]
    return [
        Rejection(clip.clip_id, clip.source_file or clip.scene, clip.source_sha256 or "", reason["contract"], reason["rule"],
                  str(reason["value"]), str(reason["threshold"]), reason.get("repeats") or "")
        for clip, reason in found
    ]  # fmt: skip


def _thumbnail(frame: Any, folder: Path, name: str) -> str:
    (folder / "thumbnails").mkdir(exist_ok=True)
    height = round(160 * frame.shape[0] / frame.shape[1])
    small = cv2.resize(frame[..., ::-1], (160, max(1, height)), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "thumbnails" / f"{name}.png"), small)
    return f"thumbnails/{name}.png"
