"""Partitions of footage and of clips: even by bytes or frames, and stable when footage is added (paper 2).

A name prefers partitions in an order that follows from the name alone, and gets the first that has space: consistent hashing with bounded
loads (Mirrokni, Thorup and Zadimoghaddam 2018). Added footage moves few others, because the bound grows in steps.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moworld.data.discovery import SUFFIXES, discover, list_line, list_lines, listed_source
from moworld.data.settings import DataSettings
from moworld.data.splits import assign_splits, hash_share, require_splits, source_of
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_folder, read_json_object, write_json

SLACK = 1.02  # of a partition's bound over the mean
STEP = 1.08  # the bound is a power of it
PARTITIONS = "partitions.json"


def assign(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Returns the partition, 0 to count - 1, of each name. sizes: bytes, frames or another positive cost of each.

    No partition has more than SLACK * STEP of the mean and the largest size together.
    """
    bound = math.ceil(STEP ** math.ceil(math.log(max(1.0, SLACK * sum(sizes.values()) / count), STEP)))
    loads, found = [0] * count, dict[str, int]()
    for name in sorted(sizes, key=lambda name: (sizes[name] <= bound, hash_share(name, 0), name)):  # what fits nowhere first
        ranked = _preferred(name, count)
        chosen = next((one for one in ranked if loads[one] + sizes[name] <= bound), None)
        if chosen is None:
            chosen = min(ranked, key=lambda one: loads[one])
        loads[chosen] += sizes[name]
        found[name] = chosen
    return found


def _preferred(name: str, count: int) -> list[int]:
    """Returns the partitions in the order in which a name prefers them; with more partitions the order of the others stays."""
    key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return sorted(range(count), key=lambda one: hashlib.blake2b(one.to_bytes(4, "big"), key=key, digest_size=8).digest())


def split_sources(out: Pathlike, settings: DataSettings, required: Iterable[str] = ()) -> dict[str, Any]:
    """Writes the sources of each partition to a folder that `partition_settings` reads; returns counts.

    Splits are those of all footage together. Each level of the game is a source, too.
    required: splits that must have a source
    Raises InputError as `discover` and `assign_splits` do, and for a required split without a source.
    """
    count = settings.partitions
    videos = video_sizes(settings.videos) if settings.videos is not None else {}
    names = {place: source_of(Path(place), settings.source_pattern) for place in videos}
    splits = assign_splits(names.values(), settings) if names else {}
    levels = {name: episodes for _, name, episodes in settings.game.episodes()} if settings.game is not None else {}
    kinds = {name: split for split, name, _ in settings.game.episodes()} if settings.game is not None else {}
    require_splits(settings.videos or "data", Counter([*kinds.values(), *(splits[names[place]] for place in videos)]), required)
    parts, places = assign(videos, count), assign(levels, count)
    with atomic_folder(out) as folder:
        rows = []
        for number in range(count):
            own = sorted(place for place in videos if parts[place] == number)
            (folder / _list_name(number)).write_text("".join(list_line(place) + "\n" for place in own), encoding="utf-8", errors="surrogateescape")
            named = {split: sorted({names[place] for place in own if splits[names[place]] == split}) for split in ("validation", "held_out")}
            mine = {name for name in levels if places[name] == number}
            rows.append({
                "videos": len(own), "bytes": sum(map(videos.__getitem__, own)),
                "levels": {split: [name for name in levels if name in mine and kinds[name] == split] for split in ("train", "validation", "held_out")},
                "named": named,
            })  # fmt: skip
        write_json(folder / PARTITIONS, {"partitions": rows})
    loads = [sum(videos[place] for place in videos if parts[place] == number) for number in range(count)]
    return {"partitions": count, "videos": len(videos), "levels": len(levels), "bytes": sum(loads), "largest_bytes": max(loads)}


def partition_settings(settings: DataSettings, folder: Pathlike, number: int) -> DataSettings | None:
    """Returns the settings with the sources of one partition alone, None if it has none. folder: see `split_sources`."""
    row = read_json_object(Path(folder) / PARTITIONS)["partitions"][number]
    game = settings.game
    if game is not None:
        chosen = {f"{split}_maps": tuple(names) for split, names in row["levels"].items()}
        game = game.model_copy(update=chosen) if any(chosen.values()) else None
    if game is None and not row["videos"]:
        return None
    named = {f"{split}_videos": tuple(names) for split, names in row["named"].items()}
    shares = {"validation_share": 0.0, "held_out_share": 0.0}
    videos = str(Path(folder).absolute() / _list_name(number)) if row["videos"] else None
    return settings.model_copy(update={"game": game, "videos": videos, **named, **shares})


def _list_name(number: int) -> str:
    return f"partition-{number:02d}.txt"


def video_sizes(source: str, depth: int = 0) -> dict[str, int]:
    """Returns the bytes of each video of a source, by its absolute path or URI. Remote ones are listed, not fetched.

    source, depth: see `moworld.data.discovery.discover`
    Raises InputError for a source that does not exist or has no video.
    """
    path = Path(source)
    if "://" in source:
        return _remote_sizes(source)
    if path.suffix == ".txt" and path.is_file():
        found = dict[str, int]()
        for _, line in list_lines(path, depth):
            found |= video_sizes(listed_source(path, line), depth + 1)
        return found
    return {str(video.absolute()): video.stat().st_size for video, _ in discover(source, path).videos}


def _remote_sizes(uri: str) -> dict[str, int]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(uri)
        found = system.find(root, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(uri, "", f"{type(error).__name__}: {error}", "a readable URI", "check data.videos") from None
    videos = {name: int(facts.get("size") or 0) for name, facts in found.items() if Path(name).suffix.lower() in SUFFIXES}
    kept = {system.unstrip_protocol(name): size for name, size in videos.items() if not Path(name).name.startswith("._") and ".." not in Path(name).parts}
    if not kept:
        raise InputError(uri, "", "no video", f"files that end in {' '.join(SUFFIXES)}", "check data.videos")
    return kept
