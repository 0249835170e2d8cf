"""Measure the pictures and hold every clip against the contract: accepted, or quarantined with the reason."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

QUALITY = {"sharpness", "brightness", "contrast", "frozen_share", "cut_score"}


def check_quality(clips: str, out: str, quarantine: str, report: str) -> dict[str, Any]:
    """Write accepted clips, the quarantine, and the contract's report with Great Expectations' verdict on what was accepted."""
    from data_contracts.expectations import validate
    from data_contracts.load import load_contract
    from moworld.data.clips import read_manifest
    from moworld.files import write_json

    summary, told = sort_out(clips, out, quarantine, None, over_clips(_measure, clips, None))
    verdict = validate([asdict(clip) for clip in read_manifest(out)], load_contract("clips"))
    write_json(report, {**told, "great_expectations": verdict})
    return {**summary, "great_expectations": verdict["success"]}


def _measure(clip: Any, folder: Path, _: Any) -> Any:
    from moworld.data.quality import measure_quality

    return measure_quality(clip, folder)


def over_clips(work: Callable[..., Any], folder: str, settings: Any) -> Callable[[Path], list[Any]]:
    """A function of a scratch copy of the folder that maps `work(clip, folder, settings)` over its clips in two processes."""

    def run(scratch: Path) -> list[Any]:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        from moworld.data.clips import read_manifest

        rows = read_manifest(folder)
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
            return list(pool.map(work, rows, [scratch] * len(rows), [settings] * len(rows)))

    return run


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def sort_out(
    clips: str, out: str, quarantine: str, columns: set[str] | None, measure: Callable[[Path], list[Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure, check against contract `clips` (some columns, or all), write both folders. Raises Refused when the batch fails.

    returns: the step's summary and the whole report
    """
    from components.platform.steps import Refused
    from data_contracts.check import check_rows
    from data_contracts.load import load_contract
    from moworld.data.clips import carry, read_frames, read_manifest, write_manifest
    from moworld.files import atomic_folder, write_json

    with atomic_folder(out) as good, atomic_folder(quarantine) as bad:
        for clip in read_manifest(clips):
            carry(clip, clips, good)
        rows = measure(good)
        found = check_rows([asdict(clip) for clip in rows], load_contract("clips"), columns)
        accepted = set(found.accepted)
        reasons = []
        for index, clip in enumerate(rows):
            if index in accepted:
                continue
            carry(clip, good, bad)
            thumbnail = _thumbnail(read_frames(good / clip.video, 0, 1)[0], bad, clip.clip_id)
            broken = [f for f in found.failures if f["row"] == clip.clip_id]
            reasons += [
                {"clip_id": clip.clip_id, "thumbnail": thumbnail, **{k: f[k] for k in ("rule", "value", "threshold")}} for f in broken
            ]
            for path in clip.files():
                (good / path).unlink()
        write_manifest(good, [rows[i] for i in sorted(accepted)])
        write_manifest(bad, [clip for i, clip in enumerate(rows) if i not in accepted])
        write_json(bad / "reasons.json", reasons)
        told = found.as_dict()
        if found.batch_fails:
            raise Refused(f"contract {told['contract']} rejects {found.quarantined} of {found.rows} clips, first {reasons[0]}", told)
    return {key: told[key] for key in ("contract", "rows", "accepted", "quarantined")}, told


def _thumbnail(frame: Any, folder: Path, name: str) -> str:
    import cv2

    (folder / "thumbnails").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "thumbnails" / f"{name}.png"), cv2.resize(frame[..., ::-1], (160, 120), interpolation=cv2.INTER_AREA))
    return f"thumbnails/{name}.png"
