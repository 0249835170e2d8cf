"""Work over clips that several steps share: a function of every clip, and the filter by contracts with its quarantine."""

import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from moworld.data.clips import link_files, read_manifest, write_manifest
from moworld.data.history import Rejection, carry
from moworld.files import atomic_folder, write_json
from moworld.video import read_frames
from moworld_ops.components.platform.context import context
from moworld_ops.components.platform.steps import Refused
from moworld_ops.data_contracts.check import check_rows
from moworld_ops.data_contracts.load import load_contract

DUPLICATE = "no-near-duplicate"  # the rule whose reason names the clip that is repeated


def map_clips(work: Callable[..., Any], clips: str, scratch: Path, settings: Any) -> list[Any]:
    """Returns `work(clip, scratch, settings)` for every clip of a folder, computed by two processes; `scratch` holds a copy of the folder."""
    rows = read_manifest(clips)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        results = pool.map(work, rows, [scratch] * len(rows), [settings] * len(rows))
        return list(tqdm(results, total=len(rows), desc=work.__module__.split(".")[-2], unit="clip", disable=None))


def filter_clips(
    clips: str, out: str, quarantine: str, contracts: tuple[str, ...] | list[str], measure: Callable[[Path], list[Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measures clips, checks them against contracts and writes both folders; returns the summary and the full report.

    measure: maps a copy of the folder to its clips with their measures. It may write files there, and return a list of parts for one clip.
             A clip counts as rejected only if all its parts are.
    Raises Refused when the batch fails a contract.
    """
    with atomic_folder(out) as good, atomic_folder(quarantine) as bad:
        for clip in read_manifest(clips):
            link_files(clip, clips, good)
        parts = [made if isinstance(made, list) else [made] for made in measure(good)]
        rows, sizes = [clip for made in parts for clip in made], [len(made) for made in parts]
        reports = [check_rows([asdict(clip) for clip in rows], load_contract(name)) for name in contracts]
        accepted = set(range(len(rows))).intersection(*(report.accepted for report in reports))
        failures = [{"contract": report.contract, **failure} for report in reports for failure in report.failures]
        rejected = [clip for index, clip in enumerate(rows) if index not in accepted]
        needed = {path for index in accepted for path in rows[index].files()}  # parts of a clip share files that are not per frame
        reasons = _quarantine(rejected, failures, good, bad, needed)
        write_manifest(good, [rows[index] for index in sorted(accepted)])
        write_manifest(bad, rejected)
        write_json(bad / "reasons.json", reasons)
        carry(clips, good, _rejections(rejected, reasons))
        names = ", ".join(f"{report.contract} {report.version}" for report in reports)
        summary = {"contract": names, "rows": len(rows), "accepted": len(accepted), "quarantined": len(rejected)}
        details = {**summary, "failures": failures}
        for report in reports:
            if report.batch_fails(sizes) or not accepted:
                first = next((reason for reason in reasons if reason["contract"] == report.contract), reasons[0] if reasons else "no clip")
                line = f"contract {report.contract} {report.version} rejects {report.lost(sizes)} of {len(sizes)} clips, first {first}"
                _keep_quarantine(bad)
                raise Refused(line, details)
    return summary, details


def _keep_quarantine(bad: Path) -> None:
    """Copies the quarantine of a refused batch into the run's folder, because the step's outputs are deleted."""
    place = context()
    if place.folder and place.step:
        kept = place.folder / "refused" / place.step
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(bad, kept)


def _quarantine(rejected: list[Any], failures: list[dict[str, Any]], good: Path, bad: Path, needed: set[str]) -> list[dict[str, Any]]:
    """Moves the files of rejected clips from `good` to `bad`, each with a thumbnail; returns one reason per broken rule."""
    reasons = []
    for clip in rejected:
        link_files(clip, good, bad)
        thumbnail = _thumbnail(read_frames(good / clip.video, 0, 1)[0], bad, clip.clip_id)
        for failure in failures:
            if failure["row"] == clip.clip_id:
                reason = {key: failure[key] for key in ("contract", "rule", "value", "threshold")}
                repeats = clip.similar_to if reason["rule"] == DUPLICATE else None
                reasons.append({"clip_id": clip.clip_id, "thumbnail": thumbnail, **reason, "explanation": clip.camera_mistake, "repeats": repeats})
    for path in {path for clip in rejected for path in clip.files()} - needed:
        (good / path).unlink()
    return reasons


def _rejections(rejected: list[Any], reasons: list[dict[str, Any]]) -> list[Rejection]:
    clips = {clip.clip_id: clip for clip in rejected}
    found = [(clips[reason["clip_id"]], reason) for reason in reasons]
    return [
        Rejection(clip.clip_id, clip.source_file or clip.scene, clip.source_sha256 or "", reason["contract"], reason["rule"],
                  str(reason["value"]), str(reason["threshold"]), reason["repeats"] or "")
        for clip, reason in found
    ]  # fmt: skip


def _thumbnail(frame: Any, folder: Path, name: str) -> str:
    (folder / "thumbnails").mkdir(exist_ok=True)
    height = round(160 * frame.shape[0] / frame.shape[1])
    small = cv2.resize(frame[..., ::-1], (160, max(1, height)), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "thumbnails" / f"{name}.png"), small)
    return f"thumbnails/{name}.png"
