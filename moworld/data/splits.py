"""Splits of imported footage by source: train, validation, held_out. Levels of the game are listed per split in `GameSettings`.

The split of a source follows from its name and the profile alone, so later footage does not move earlier clips. All clips of a source
share its split: shots, clips between jumps, and files with the same source name, such as re-encodings.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from moworld.data.settings import DataSettings
from moworld.errors import InputError

SPLITS = ("train", "validation", "held_out")
FIXES = {
    "train": "lower data.validation_share and data.held_out_share, or use more footage",
    "validation": "name sources in data.validation_videos, or raise data.validation_share",
    "held_out": "name sources in data.held_out_videos, raise data.held_out_share, or name levels in data.game.held_out_maps",
}
WITHOUT = "; to measure no video quality, set benchmark.held_out=false"


def source_of(path: Path, pattern: str) -> str:
    """Returns the name of a video's source: the first group of `pattern` in its absolute path; raises InputError if nothing matches."""
    found = re.search(pattern, path.absolute().as_posix())
    if found is None or not found[1]:
        raise InputError(path, "data.source_pattern", f"no match of {pattern}", "a name in every path", "correct the pattern")
    return found[1]


def assign_splits(sources: Iterable[str], settings: DataSettings, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the split of each source.

    known: splits of sources that are in the data already, which never change

    Named sources (`validation_videos`, `held_out_videos`) get their split. A split without names gets its share of the other sources, by
    a hash of their name: [0, held_out_share) is held_out, [1 - validation_share, 1) is validation. If no source would be left for
    training, which is common with a single one, those without a name are all training footage.
    Raises InputError if a name belongs to no source, or to one that is in another split already.
    """
    known = known or {}
    names = dict.fromkeys([*sources, *known])
    named = {"validation": settings.validation_videos, "held_out": settings.held_out_videos}
    for split, listed in named.items():
        for unknown in (name for name in listed if name not in names):
            raise InputError("data", f"{split}_videos", unknown, f"names of sources, such as {', '.join(list(names)[:5])}", "correct the name")
        for moved in (name for name in listed if known.get(name, split) != split):
            fix = "correct the name, or import all footage again with --replace"
            raise InputError("data", f"{split}_videos", f"{moved}, which is in split {known[moved]} already", "sources of that split or new ones", fix)
    splits = {name: split for split, listed in named.items() for name in listed} | dict(known)
    held_out = 0.0 if settings.held_out_videos else settings.held_out_share
    validation = 0.0 if settings.validation_videos else settings.validation_share
    for name in names.keys() - splits.keys():
        place = hash_share(name, settings.split_seed)
        splits[name] = "held_out" if place < held_out else "validation" if place >= 1 - validation else "train"
    if "train" not in splits.values():
        chosen = (*settings.validation_videos, *settings.held_out_videos, *known)
        splits |= {name: "train" for name in names if name not in chosen}
    return splits


def hash_share(name: str, seed: int) -> float:
    """Returns a number in [0, 1) that depends on the name and the seed alone, uniform over names."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48


def require_splits(where: object, counts: Mapping[str, int], required: Iterable[str]) -> None:
    """Raises InputError for the first required split without a clip. counts: clips or sources of each split."""
    for split in required:
        if not counts.get(split):
            raise empty_split(where, split, counts)


def empty_split(where: object, split: str, counts: Mapping[str, int]) -> InputError:
    """Returns the error for a split without a clip. counts: clips or sources of each split."""
    others = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count) or "no other split either"
    fix = FIXES.get(split, "use another split") + (WITHOUT if split == "held_out" else "")
    return InputError(where, f"split {split}", f"no clip ({others})", "at least one", fix)
