"""Makes a clips folder (paper 2) from game levels and from videos in files, folders and URIs, and accounts for every file.

Videos are imported in separate processes; each finished video is kept, so that an import that was killed resumes where it stopped.
An unreadable video is an error if it was named itself, and listed as rejected if it was found in a folder.
"""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from tqdm import tqdm

from moworld.cpus import available_cpus
from moworld.data.captions import read_caption_file
from moworld.data.clips import Clip, clip_of, write_manifest
from moworld.data.discovery import Fate, Listing, camera_of, discover
from moworld.data.game import record_game
from moworld.data.history import BASE, IMPORTED, KEPT, REJECTED, SOURCES, Earlier, Rejection, extend, merged, write_rows
from moworld.data.importing import Rejected, Source, analyse, check_header, import_video, slug
from moworld.data.isolation import run_isolated
from moworld.data.settings import DataSettings
from moworld.data.splits import assign_splits, require_splits, source_of
from moworld.errors import InputError, printable
from moworld.files import Pathlike, atomic_folder, link_or_copy, read_json_object, sha256_file, sha256_tree, write_json

VERSION = 1  # of what is kept of a finished video: raise it when the pictures of an import change
PROBED, PROBE_FRAMES = 3, 24  # videos whose first frames a dry run decodes to estimate the time
PASSES = 2
NO_SIDECARS = "none"
__all__ = ["DataSettings", "collect_clips", "import_videos", "plan_import"]


def collect_clips(
    out: Pathlike,
    settings: DataSettings,
    seed: int,
    kept: Pathlike | None = None,
    required: Iterable[str] = (),
    earlier: Earlier | None = None,
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """Makes a clips folder from the sources of the settings: manifest, files, history and summary.json, atomically; returns the summary.

    kept:     folder of game episodes and videos finished before; default for videos: a hidden folder beside `out`, removed at the end
    required: splits that must have a clip; an empty one is refused before videos are decoded, and without videos before anything else
    earlier:  clips that the folder has, too. An original among them is not decoded again; one that was withdrawn is left out
    may_be_empty: whether no source and no clip are no error, as for a partition
    Raises InputError if no source is named, a source is invalid, no clip results, or a required split is empty.
    """
    if settings.game is None and settings.videos is None and not may_be_empty:
        raise InputError("data", "game, videos", "neither", "a source of clips", "set data.game or data.videos in the profile")
    levels = Counter(split for split, _, _ in settings.game.episodes()) if settings.game is not None else Counter[str]()
    levels += Counter(clip.split for clip in earlier.clips) if earlier else Counter()
    required = tuple(required)
    if settings.videos is None:
        require_splits("data", levels, required)
    with _store(out, kept) as store, atomic_folder(out) as folder:
        clips: list[Clip] = []
        summary: dict[str, Any] = {"seed": seed, "rejected": [], "files": []}
        if settings.game is not None:
            rows, summary["game"] = record_game(folder, settings.game, seed, Path(kept) if kept else None)
            clips += [replace(clip, source_file=clip.clip_id, source_sha256=clip.video_sha256) for clip in rows]
        if settings.videos is not None:
            missing = [name for name in required if not levels[name]]
            rows, summary["rejected"], fates = import_videos(settings.videos, folder, settings, missing, store, earlier)
            summary["files"] = [asdict(fate) for fate in fates]
            clips += rows
        seen = [Fate(clip.clip_id, IMPORTED, "", 1, clip.video_sha256) for clip in clips if clip.source == "game"]
        seen += [Fate(**row) for row in summary["files"]]
        if earlier:
            clips = extend(folder, clips, earlier)
            seen, summary["new"] = merged(earlier.sources, seen), len(clips) - (len(earlier.clips) if earlier.carried else 0)
            if earlier.base:
                write_json(folder / BASE, earlier.base)
        write_rows(folder, SOURCES, merged([], seen), Fate)
        write_rows(folder, REJECTED, earlier.rejected if earlier and earlier.carried else [], Rejection)
        if not clips and not may_be_empty:
            raise InputError(settings.videos or "data", "", "no clip", "at least one clip", f"see the reasons: {summary['rejected'][:3]}")
        counts = Counter(clip.split for clip in clips)
        require_splits(settings.videos or "data", counts, required)
        write_manifest(folder, clips)
        summary |= {"clips": len(clips), "frames": sum(clip.num_frames for clip in clips), "splits": dict(sorted(counts.items()))}
        write_json(folder / "summary.json", summary)
    return summary


@contextmanager
def _store(out: Pathlike, kept: Pathlike | None) -> Iterator[Path]:
    """Gives the folder of finished videos. The default one is removed at the end and when the input is refused, not when the work breaks off."""
    store = Path(kept) / "videos" if kept else Path(out).parent / f".{Path(out).name}.imported"
    try:
        yield store
    except InputError:
        if not kept:
            shutil.rmtree(store, ignore_errors=True)
        raise
    if not kept:
        for left in (store, *Path(out).parent.glob(f".{escape(Path(out).name)}.*.tmp")):  # the others are of an import that was killed
            shutil.rmtree(left, ignore_errors=True)


def import_videos(
    source: str,
    folder: Path,
    settings: DataSettings,
    required: Iterable[str] = (),
    store: Path | None = None,
    earlier: Earlier | None = None,
) -> tuple[list[Clip], list[Rejected], list[Fate]]:
    """Returns clips of every shot of the videos, written into a clips folder; the rejected parts with reasons; the fate of every file.

    source:   see `discover`
    required: splits that must have a source
    store:    folder of videos finished before, which is read and added to
    earlier:  clips that are in the data already; their originals are not imported again
    Raises InputError for a source without video, a named video that cannot be read, an invalid camera file, and a required split
    without a source.
    """
    clips: list[Clip] = []
    with tempfile.TemporaryDirectory(prefix="videos-") as scratch:
        listing = discover(source, Path(scratch))
        videos, fates = _distinct(listing, settings, source, required, earlier)
        rejected = [{"video": fate.file, "rule": "readable", "value": fate.why} for fate in fates if fate.fate == "rejected"]
        store = store or Path(scratch) / ".finished"
        keys = [_key(video, settings) for video in videos]
        new = [(video, key) for video, key in zip(videos, keys, strict=True) if not (store / key / "done.json").exists()]
        for old in (old for _, key in new for old in store.glob(f"{key}.*.part")):  # of an import that was killed
            shutil.rmtree(old, ignore_errors=True)
        tasks = [(video, store / f"{key}.{uuid4().hex}.part", settings) for video, key in new]
        results = run_isolated(_finish_video, tasks, settings.workers or available_cpus(), attempts=2)
        shown = tqdm(results, total=len(videos), initial=len(videos) - len(new), desc="videos", unit="video", disable=None)
        refused = {key: result for (_, key), result in zip(new, shown, strict=True) if isinstance(result, InputError)}
        for video, key in zip(videos, keys, strict=True):
            if (error := refused.get(key)) is not None:
                if listing.alone:
                    raise error
                rule = "readable" if error.file == str(video.path) else "camera"
                rejected.append({"video": printable(video.path.name), "rule": rule, "value": str(error)})
                fates.append(replace(_seen(video), fate="rejected", why=str(error)))
            else:
                done = read_json_object(store / key / "done.json")
                rows = [clip_of(row) for row in done["clips"]]
                for file in (file for row in rows for file in row.files()):
                    link_or_copy(store / key / file, folder / file)
                clips += rows
                rejected += done["rejected"]
                fates.append(_fate(video, rows, done))
    return clips, rejected, sorted(fates, key=lambda fate: fate.file)


def _distinct(
    listing: Listing, settings: DataSettings, source: str, required: Iterable[str], earlier: Earlier | None = None
) -> tuple[list[Source], list[Fate]]:
    """Returns the new videos with their splits and hashes, each content once, and the fates of the other files."""
    sources = [source_of(path, settings.source_pattern) for path, _ in listing.videos]
    splits = assign_splits(sources, settings, earlier.splits if earlier else None)
    require_splits(source, Counter(splits[name] for name in set(sources)), required)
    withdrawn = earlier.withdrawn if earlier else {}
    copies: dict[str, list[Source]] = {}
    videos, fates = list[Source](), list(listing.fates)
    shown = tqdm(listing.videos, desc="reading", unit="file", disable=None if len(listing.videos) > 1 else True)
    for (path, name), own in zip(shown, sources, strict=True):
        try:
            content = sha256_file(path)
        except OSError as error:
            fates.append(Fate(name, "rejected", f"cannot be read: {error.strerror}"))
            continue
        others, beside = copies.setdefault(content, []), _sidecars(path)
        mark = beside[:8] if any(slug(other.path.stem) == slug(path.stem) for other in others) else ""
        video = Source(path, name, splits[own], content, listing.place(path), printable(own), beside, mark)
        same = next((other for other in others if other.sidecars == beside), None)
        if same is not None:
            fates.append(replace(_seen(video), fate="ignored", why=f"the same content as {same.name}"))
        elif content in withdrawn:
            fates.append(replace(_seen(video), fate="rejected", why=f"withdrawn: {withdrawn[content]}"))
        elif earlier and content in earlier.contents:
            fates.append(replace(_seen(video), fate=KEPT, why=f"in the data already, as {earlier.contents[content]}{_unused(video, earlier)}"))
        else:
            videos.append(video)
        others.append(video)
    return videos, fates


def _unused(video: Source, earlier: Earlier) -> str:
    """Returns, for a video whose content is in the data, what is said of camera and caption files that are not used; "" if they were."""
    used = {part for row in earlier.sources if row.sha256 == video.sha256 and row.fate == IMPORTED for part in row.sidecars.split()}
    if video.sidecars in used | {NO_SIDECARS}:
        return ""
    differ = "which differ from those of its import" if used else "and those of its import are not recorded"
    return f"; its camera and caption files are not used, {differ}; --replace starts a data set with them"


def _sidecars(video: Path) -> str:
    """Returns a hash of a video's camera files and caption, or NO_SIDECARS. Raises InputError if there are two camera files."""
    camera, (caption, fault) = camera_of(video).path, read_caption_file(video)
    if camera is None and caption is None and not fault:
        return NO_SIDECARS
    lens = camera.with_name("intrinsics.npy") if camera is not None and camera.name == "poses.npy" else None
    seen = [] if camera is None else [sha256_tree(camera) if camera.is_dir() else sha256_file(camera)]
    seen += [sha256_file(lens)] if lens is not None and lens.is_file() else []
    return sha256(repr((seen, caption, fault)).encode()).hexdigest()[:16]


def _key(video: Source, settings: DataSettings) -> str:
    """Returns a name for all that the clips of a video depend on: its content and name, split, camera, caption and settings."""
    chosen = settings.model_dump(include={"min_frames", "max_frames", "max_height", "fps", "cut_threshold", "still_seconds", "crf", "privacy"}, mode="json")
    parts = (VERSION, video.sha256, video.name, video.path.stem, video.split, video.sidecars, video.mark, sorted(chosen.items()))
    return sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _finish_video(video: Source, part: Path, settings: DataSettings, heartbeat: Any) -> None:
    """Imports one video into a folder that appears when it is complete.

    `part` is of one import alone: after a kill a process of the killed import may still write, beside the one that replaces it.
    """
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        clips, rejected, changes = import_video(video, part, settings, heartbeat)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    write_json(part / "done.json", {"clips": [asdict(clip) for clip in clips], "rejected": rejected, "changes": changes})
    try:
        part.rename(part.with_name(part.name.split(".")[0]))
    except OSError:
        if not (part.with_name(part.name.split(".")[0]) / "done.json").exists():
            raise
        shutil.rmtree(part)  # the other one was first, with the same result


def _fate(video: Source, rows: list[Clip], done: dict[str, Any]) -> Fate:
    """Returns the fate of a video that was read, with everything that was done to it."""
    rules = Counter(entry["rule"] for entry in done["rejected"])
    cut = [f"left out: {', '.join(f'{rule} ({count})' for rule, count in rules.items())}"] if rules else []
    why = "; ".join([*([done["changes"]] if done["changes"] else []), *cut])
    return replace(_seen(video), fate=IMPORTED if rows else "rejected", why=why, clips=len(rows), sidecars=video.sidecars)


def _seen(video: Source) -> Fate:
    return Fate(video.name, "", "", 0, video.sha256, video.place, video.unit, video.split)


def plan_import(settings: DataSettings, earlier: Earlier | None = None) -> dict[str, Any]:
    """Returns what an import would do, without decoding whole videos: each file's fate, the seconds of footage, the estimated seconds.

    earlier: clips that are in the data already
    `files` holds rows of `Fate`; a file whose header can be read has the fate "import". Raises InputError as an import does.
    """
    if settings.videos is None:
        raise InputError("data", "videos", "none", "a video, a folder, a list or a URI", "set data.videos")
    with tempfile.TemporaryDirectory(prefix="videos-") as scratch:
        listing = discover(settings.videos, Path(scratch))
        videos, fates = _distinct(listing, settings, settings.videos, (), earlier)
        seconds, pixels, cost = 0.0, 0.0, list[float]()
        for video in videos:
            try:
                info = check_header(video.path)
                if len(cost) < PROBED:
                    cost.append(_seconds_per_pixel(video.path, info.height * info.width))
            except InputError as error:
                fates.append(Fate(video.name, "reject", str(error)))
                continue
            length = info.seconds or info.num_frames / info.fps
            seconds, pixels = seconds + length, pixels + length * info.fps * info.height * info.width
            facts = f"{length:.1f} s, {info.width}x{info.height}, {info.fps:.4g} frames per second, split {video.split}"
            fates.append(Fate(video.name, "import", facts))
        estimate = PASSES * pixels * max(cost, default=0.0) / min(settings.workers or available_cpus(), max(1, len(videos)))
    files = [asdict(fate) for fate in sorted(fates, key=lambda fate: fate.file)]
    return {"files": files, "footage_seconds": round(seconds, 1), "estimated_seconds": round(estimate, 1)}


def _seconds_per_pixel(path: Path, pixels: int) -> float:
    start = time.perf_counter()
    seen = analyse(path, stop=PROBE_FRAMES)
    return (time.perf_counter() - start) / (len(seen.times) * pixels)
