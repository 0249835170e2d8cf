"""VBench-I2V's list of prompts and pictures, and the videos of a folder that belong to it by name.

A video that is missing, one that no prompt asks for and a picture that is not there are all named: nothing is scored or left out in silence.
"""

from dataclasses import dataclass
from pathlib import Path

from moworld.errors import InputError
from moworld.evaluation.vbench import DIMENSIONS
from moworld.files import Pathlike, read_json

SAMPLES = 5  # videos for each prompt, PROMPT-0.mp4 to PROMPT-4.mp4
SIDECAR = "vbench_suite.json"  # a folder's own list, for videos that are named otherwise
WANTED = "a list of objects with prompt_en, dimension and image_name, as vbench2_i2v_full_info.json"


@dataclass(frozen=True)
class Entry:
    """A prompt of the suite: its picture's file, the scores that it counts for (short names), and its videos where they have own names."""

    prompt: str
    image: str
    dimensions: tuple[str, ...]
    videos: tuple[str, ...] = ()

    def names(self, samples: int) -> list[str]:
        """The videos to look for."""
        return list(self.videos) or [f"{self.prompt}-{index}.mp4" for index in range(samples)]


@dataclass(frozen=True)
class Case:
    """A video that is there, with its picture (None where it is not there) and the scores it counts for."""

    video: Path
    image: Path | None
    dimensions: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What a folder has of the suite: cases; names that are missing; files that are not of the suite; expected videos of each score."""

    cases: list[Case]
    missing: list[str]
    unknown: list[str]
    expected: dict[str, int]


def read_suite(path: Pathlike, limit: int = 0) -> list[Entry]:
    """The prompts that count for any of the eight scores, in the file's order; with `limit`, so many of them, evenly spread.

    The official list's camera-motion prompts count for none of the eight. An entry may name its own `video_list` and, instead of
    image_name, a `custom_image_path`, as VBench's own files of other systems do.
    Raises InputError for another file, a name that leaves the folder, and a prompt that comes twice.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(path, "", type(rows).__name__, WANTED, "give VBench-I2V's list")
    entries = [entry for number, row in enumerate(rows) if (entry := _entry(path, number, row)).dimensions]
    if not entries:
        raise InputError(path, "", "no prompt of any of the eight scores", WANTED, "give VBench-I2V's list")
    names = [name for entry in entries for name in entry.names(1)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(path, twice[0], "the same video twice", "a prompt for each video", "drop one of the two")
    count = min(limit, len(entries)) or len(entries)
    return [entries[index * len(entries) // count] for index in range(count)]


def find_videos(folder: Pathlike, entries: list[Entry], images: Path | None, samples: int = SAMPLES) -> Found:
    """The suite's videos in a folder. Raises InputError when there is none of them."""
    root = Path(folder)
    there = {path.name for path in root.iterdir() if path.is_file() and not path.name.startswith(".")}
    cases, missing, expected = [], [], dict.fromkeys(DIMENSIONS, 0)
    for entry in entries:
        picture = _picture(root, entry, images)
        for name in entry.names(samples):
            for dimension in entry.dimensions:
                expected[dimension] += 1
            if name in there:
                cases.append(Case(root / name, picture, entry.dimensions))
            else:
                missing.append(name)
    wanted = {*(case.video.name for case in cases)}
    unknown = sorted(name for name in there - wanted if Path(name).suffix.lower() not in (".json", ".txt", ".html"))
    if not cases:
        found = f"{len(unknown)} other files" if unknown else "no video"
        mend = f"name them so, or write {SIDECAR} there with video_list and custom_image_path"
        raise InputError(root, "", found, f"videos of the suite, such as {entries[0].names(samples)[0]!r}", mend)
    return Found(cases, missing, unknown, expected)


def _picture(root: Path, entry: Entry, images: Path | None) -> Path | None:
    places = [root / entry.image, *([images / entry.image] if images else [])]
    return next((place for place in places if place.is_file()), None)


def _entry(path: Pathlike, number: int, row: object) -> Entry:
    where = f"entry {number}"
    if not isinstance(row, dict) or not isinstance(row.get("prompt_en"), str) or not isinstance(row.get("dimension"), list):
        raise InputError(path, where, "no prompt_en and dimension", WANTED, "give VBench-I2V's list")
    image = row.get("image_name") or row.get("custom_image_path") or ""
    videos = row.get("video_list") or []
    names = [videos] if isinstance(videos, str) else list(videos)
    for name in (row["prompt_en"], *names):
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(path, where, repr(name), "a file name without folders", "name the video alone; its folder is given")
    short = {long: name for name, long in DIMENSIONS.items()}
    dimensions = tuple(short[name] for name in row["dimension"] if name in short)
    return Entry(row["prompt_en"], str(image), dimensions, tuple(names))
