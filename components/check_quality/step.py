"""Measure the pictures and hold every clip against the contracts: accepted, or quarantined with the reason."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

CONTRACTS = ("clips", "geometry", "quality")


def check_quality(clips: str, out: str, quarantine: str, report: str) -> dict[str, Any]:
    """Write accepted clips, the quarantine, and the contracts' report with Great Expectations' verdict on what was accepted."""
    from data_contracts.expectations import validate
    from data_contracts.load import load_contract
    from moworld.data.clips import read_manifest
    from moworld.data.duplicates import with_similarity
    from moworld.files import write_json

    def measure(folder: Path) -> list[Any]:
        rows, hashes = zip(*over_clips(_measure, clips, folder, None), strict=True)
        return with_similarity(list(rows), list(hashes))

    summary, told = sort_out(clips, out, quarantine, CONTRACTS, measure)
    kept = [asdict(clip) for clip in read_manifest(out)]
    verdicts = {name: validate(kept, load_contract(name)) for name in CONTRACTS}
    write_json(report, {**told, "great_expectations": verdicts})
    return {**summary, "great_expectations": all(verdict["success"] for verdict in verdicts.values())}


def _measure(clip: Any, folder: Path, _: Any) -> tuple[Any, Any]:
    from moworld.data.duplicates import clip_hashes
    from moworld.data.quality import measure_quality

    return measure_quality(clip, folder), clip_hashes(clip, folder)


def over_clips(work: Callable[..., Any], clips: str, scratch: Path, settings: Any) -> list[Any]:
    """`work(clip, scratch, settings)` of every clip of a folder, of which `scratch` holds a copy, in two processes."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from tqdm import tqdm

    from moworld.data.clips import read_manifest

    rows = read_manifest(clips)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        done = pool.map(work, rows, [scratch] * len(rows), [settings] * len(rows))
        return list(tqdm(done, total=len(rows), desc=work.__module__.split(".")[1], unit="clip", disable=None))


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def sort_out(
    clips: str, out: str, quarantine: str, contracts: tuple[str, ...] | list[str], measure: Callable[[Path], list[Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure, check against the contracts, write both folders. Raises Refused when the batch fails one of them.

    measure: a copy of the folder -> its clips with what was measured; it may write files there, and make a list of parts of one, of which the
             share of the batch that is rejected counts nothing unless no part is left
    returns: the step's summary and the whole report
    """
    from components.platform.steps import Refused
    from data_contracts.check import check_rows
    from data_contracts.load import load_contract
    from moworld.data.clips import carry, read_manifest, write_manifest
    from moworld.files import atomic_folder, write_json

    with atomic_folder(out) as good, atomic_folder(quarantine) as bad:
        for clip in read_manifest(clips):
            carry(clip, clips, good)
        parts = [made if isinstance(made, list) else [made] for made in measure(good)]
        rows, sizes = [clip for made in parts for clip in made], [len(made) for made in parts]
        found = [check_rows([asdict(clip) for clip in rows], load_contract(name)) for name in contracts]
        accepted = set(range(len(rows))).intersection(*(report.accepted for report in found))
        failures = [{"contract": report.contract, **failure} for report in found for failure in report.failures]
        rejected = [clip for index, clip in enumerate(rows) if index not in accepted]
        needed = {path for index in accepted for path in rows[index].files()}  # parts of one clip share what goes by no frame
        reasons = _put_aside(rejected, failures, good, bad, needed)
        write_manifest(good, [rows[index] for index in sorted(accepted)])
        write_manifest(bad, rejected)
        write_json(bad / "reasons.json", reasons)
        named = ", ".join(f"{report.contract} {report.version}" for report in found)
        counts = {"rows": len(rows), "accepted": len(accepted), "quarantined": len(rejected)}
        told = {"contract": named, **counts, "failures": failures}
        for report in found:
            if report.batch_fails(sizes) or not accepted:
                first = next((reason for reason in reasons if reason["contract"] == report.contract), reasons[0] if reasons else "no clip")
                line = f"contract {report.contract} {report.version} rejects {report.lost(sizes)} of {len(sizes)} clips, first {first}"
                _keep_evidence(bad)
                raise Refused(line, told)
    return {"contract": named, **counts}, told


def _keep_evidence(bad: Path) -> None:
    """Leave the quarantine of a refused batch in the run's folder: the step's outputs go, the reasons must not."""
    import os
    import shutil

    run, step = os.environ.get("MOWORLD_RUN_FOLDER"), os.environ.get("MOWORLD_STEP")
    if run and step:
        shutil.rmtree(Path(run, "refused", step), ignore_errors=True)
        shutil.copytree(bad, Path(run, "refused", step))


def _put_aside(rejected: list[Any], failures: list[dict[str, Any]], good: Path, bad: Path, needed: set[str]) -> list[dict[str, Any]]:
    """Move the files of rejected clips into the quarantine with a thumbnail each; the reasons, one a broken rule."""
    from moworld.data.clips import carry
    from moworld.video import read_frames

    reasons = []
    for clip in rejected:
        carry(clip, good, bad)
        thumbnail = _thumbnail(read_frames(good / clip.video, 0, 1)[0], bad, clip.clip_id)
        broken = [failure for failure in failures if failure["row"] == clip.clip_id]
        told = ({key: failure[key] for key in ("contract", "rule", "value", "threshold")} for failure in broken)
        reasons += [{"clip_id": clip.clip_id, "thumbnail": thumbnail, **reason} for reason in told]
    for path in {path for clip in rejected for path in clip.files()} - needed:
        (good / path).unlink()
    return reasons


def _thumbnail(frame: Any, folder: Path, name: str) -> str:
    import cv2

    (folder / "thumbnails").mkdir(exist_ok=True)
    height = round(160 * frame.shape[0] / frame.shape[1])
    small = cv2.resize(frame[..., ::-1], (160, max(1, height)), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "thumbnails" / f"{name}.png"), small)
    return f"thumbnails/{name}.png"
