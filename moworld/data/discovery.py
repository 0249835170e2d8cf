"""Finds the videos of a file, folder, list or URI, and accounts for every other file.

A video is a file with a suffix of `SUFFIXES`. Hidden files, folders that are links and files with other suffixes are ignored; links
to nothing and empty files are rejected. Camera and caption files beside a video are used with it.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moworld.camera.sidecar import FOLDER_FILES, Sidecar, find_sidecar
from moworld.errors import InputError, printable
from moworld.remote import remote_errors, unreadable

SUFFIXES = (
    ".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m2v", ".vob", ".wmv", ".asf", ".flv",
    ".f4v", ".3gp", ".3g2", ".ogv", ".mxf", ".gif", ".dv", ".mjpeg", ".mjpg", ".h264", ".264", ".h265", ".265", ".hevc", ".y4m", ".mod",
    ".tod", ".insv", ".lrv", ".divx", ".rm", ".rmvb",
)  # fmt: skip
CAMERA_SUFFIXES = (".txt", ".npz", ".npy", ".json", ".bin")
CAMERA_NAMES = (
    *FOLDER_FILES, "intrinsics.npy", *(f"{part}{suffix}" for part in ("cameras", "images", "points3D", "frames", "rigs") for suffix in (".txt", ".bin")),
)  # fmt: skip
MAX_LISTS = 4  # inside each other
COLMAP_DEPTH = 3  # STEM/sparse/0/images.bin


@dataclass(frozen=True)
class Fate:
    """What happened to a file: imported, kept, used, ignored, rejected or withdrawn; why: its rule or reason, in words.

    clips:  number of clips that were made of it, before contracts are checked
    sha256: of its content, if it was read
    place:  its absolute path or URI
    source: what it shares a split with
    sidecars: hashes of the camera and caption files that it was imported with, separated by spaces, "none" for none; "" is not recorded
    """

    file: str
    fate: str
    why: str
    clips: int = 0
    sha256: str = ""
    place: str = ""
    source: str = ""
    split: str = ""
    sidecars: str = ""


@dataclass
class Listing:
    """Videos with their names, the fates of the other files, whether the source named a single video, and the URIs of fetched videos."""

    videos: list[tuple[Path, str]] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    alone: bool = False
    uris: dict[Path, str] = field(default_factory=dict)

    def place(self, video: Path) -> str:
        """Returns where a video is: its URI, or its absolute path."""
        return self.uris.get(video) or printable(str(video.absolute()))


def discover(source: str, scratch: Path, depth: int = 0) -> Listing:
    """Returns the videos of a source on the local disk. Remote ones are fetched into `scratch` with their camera files.

    source: a video, a folder, a .txt list of either or of lists, or an fsspec URI of one of them
    depth:  lists around this source
    Raises InputError for a source that does not exist or has no video, and for lists deeper than `MAX_LISTS`, as one that names itself.
    """
    if "://" in source:
        return _fetched(source, scratch)
    path = Path(source)
    if not path.exists():
        raise InputError(path, "", "no such file or folder", "a video or a folder of videos", "check data.videos")
    if path.suffix == ".txt" and path.is_file():
        return _listed(path, scratch, depth)
    if path.is_file():
        return Listing([(path, printable(path.name))], [], True)
    listing = _folder(path)
    if not listing.videos and not any(fate.fate == "rejected" for fate in listing.fates):
        raise InputError(path, "", "no video", f"files that end in {' '.join(SUFFIXES)}", "check data.videos")
    return listing


def camera_of(video: Path) -> Sidecar:
    """Returns the camera file or folder of a video, and why other files beside it are not used. Raises InputError if there are two."""
    return find_sidecar(video, alone=sum(path.suffix.lower() in SUFFIXES for path in video.parent.iterdir()) == 1)


def _folder(root: Path) -> Listing:
    listing = Listing()
    files = sorted(path for path in root.rglob("*") if path.is_symlink() or not path.is_dir())
    stems = {path.with_suffix("") for path in files if path.suffix.lower() in SUFFIXES}
    for path in files:
        name = printable(path.relative_to(root).as_posix())
        if path.is_symlink() and path.is_dir():
            listing.fates.append(Fate(name, "ignored", "a link to a folder"))
        elif _is_hidden(path, root):
            listing.fates.append(Fate(name, "ignored", "a hidden file"))
        elif path.suffix.lower() in SUFFIXES:
            _judge(listing, path, name)
        elif _is_sidecar(path, stems):
            listing.fates.append(Fate(name, "used", "camera or caption of the video beside it"))
        else:
            listing.fates.append(Fate(name, "ignored", f"no video by its suffix {printable(path.suffix)!r}"))
    return listing


def _is_hidden(path: Path, root: Path) -> bool:
    """Returns whether a file is hidden and no video; macOS writes ._NAME.mp4 beside videos, which holds no video either."""
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.name.startswith("._") or (hidden and path.suffix.lower() not in SUFFIXES)


def _judge(listing: Listing, path: Path, name: str) -> None:
    """Adds a file with the suffix of a video to the videos, or to the rejected files."""
    if not path.exists():
        listing.fates.append(Fate(name, "rejected", "a link to a file that does not exist"))
    elif not path.is_file():
        listing.fates.append(Fate(name, "rejected", "no regular file"))
    elif not path.stat().st_size:
        listing.fates.append(Fate(name, "rejected", "an empty file"))
    else:
        listing.videos.append((path, name))


def _is_sidecar(path: Path, stems: set[Path]) -> bool:
    own = path.with_name(path.name.removesuffix(".prompt.txt")) if path.name.endswith(".prompt.txt") else path.with_suffix("")
    folders = set(path.parents[:COLMAP_DEPTH])
    beside = path.name in CAMERA_NAMES and (folders & stems or any(stem.parent in folders for stem in stems))
    return bool(beside) or (own in stems and path.suffix.lower() in CAMERA_SUFFIXES)


def _listed(listing: Path, scratch: Path, depth: int) -> Listing:
    """Returns the videos of a list: one path or URI per line, relative to the list; empty lines and lines that start with # are ignored.

    A line that starts with a quotation mark is a JSON string, for names with line breaks, bytes that are not UTF-8 or spaces at their ends.
    """
    merged = Listing()
    for number, line in list_lines(listing, depth):
        try:
            found = discover(listed_source(listing, line), scratch / str(number), depth + 1)
        except InputError as error:
            raise InputError(listing, f"line {number}", f"{line}: {error.found}", error.expected, "fix the line") from None
        known = {path.resolve() for path, _ in merged.videos}
        for path, name in found.videos:
            if path.resolve() in known:
                merged.fates.append(Fate(name, "ignored", "listed twice"))
            else:
                merged.videos.append((path, name))
        merged.fates += found.fates
        merged.uris |= found.uris
    if not merged.videos and not merged.fates:
        raise InputError(listing, "", "no video", "one path or URI per line", "fill the list")
    return merged


def list_lines(listing: Path, depth: int) -> list[tuple[int, str]]:
    """Returns the lines of a list that name sources, with their numbers. Raises InputError for a file that is not text, and if it is too deep."""
    if depth > MAX_LISTS:
        fix = "name the videos in one list"
        raise InputError(listing, "", f"lists inside each other, deeper than {MAX_LISTS}", "videos, folders or URIs", fix)
    try:
        lines = listing.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(listing, "", error, "a list of videos, one per line, in UTF-8", "write names of other bytes as JSON strings") from None
    return [(number, line) for number, raw in enumerate(lines, start=1) if (line := raw.strip()) and not line.startswith("#")]


def listed_source(listing: Path, line: str) -> str:
    """Returns the path or URI that a line of a list names. Raises InputError for a JSON string that is not one."""
    try:
        name = str(json.loads(line)) if line.startswith('"') else line
    except ValueError as error:
        raise InputError(listing, line[:60], f"text that is not JSON ({error})", "a JSON string", "correct the line") from None
    if "://" in name:
        return name
    return str(listing.parent / name)


def list_line(source: str) -> str:
    """Returns the line of a list that names a source; `discover` reads it."""
    plain = source.isprintable() and source == source.strip() and not source.startswith(("#", '"'))
    return source if plain else json.dumps(source)


def _fetched(uri: str, scratch: Path) -> Listing:
    """Fetches a URI's videos with their camera and caption files. Raises InputError, which names the URI, if that is not possible."""
    import fsspec

    place = scratch / "root"
    try:
        system, root = fsspec.core.url_to_fs(uri)
        alone, base, names = _listing(system, root)
        place = scratch / (Path(base).name or "root")  # so that paths end as at their origin, for data.source_pattern
        place.mkdir(parents=True, exist_ok=True)
        ignored, uris = list[Fate](), dict[Path, str]()
        for name in names:
            relative = _plain(system, name)[len(base) :].lstrip("/")
            if Path(relative).suffix.lower() not in (*SUFFIXES, *CAMERA_SUFFIXES):
                ignored.append(Fate(printable(relative), "ignored", f"no video by its suffix {printable(Path(relative).suffix)!r}"))
                continue
            if ".." in Path(relative).parts:  # a key may be any text
                ignored.append(Fate(printable(relative), "rejected", "a name that leaves the folder"))
                continue
            target = place / relative
            uris[target] = system.unstrip_protocol(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with system.open(name, "rb") as stream, target.open("wb") as copy:
                while block := stream.read(1 << 22):
                    copy.write(block)
    except remote_errors() as error:
        raise unreadable(uri, error) from None
    if not uris and any(fate.fate == "rejected" for fate in ignored):
        return Listing([], ignored)
    if not names or not uris:
        what = "no such object, and no object with this prefix" if not names else f"no video among {len(names)} objects"
        raise InputError(uri, "", what, f"files that end in {' '.join(SUFFIXES[:4])} ...", "check the URI")
    try:
        found = discover(str(place), scratch)
    except InputError as error:
        raise InputError(uri, error.field, error.found, error.expected, error.fix) from None
    found.fates += ignored
    found.alone, found.uris = alone, uris
    return found


def _listing(system: Any, root: str) -> tuple[bool, str, list[str]]:
    """Returns whether a URI names one video, the folder above the names, and the names: the video and files that may belong to it, or all.

    A server that lists nothing, as most behind plain HTTP do, gets a request for the video and for each name that a file beside it may have.
    """
    plain = _plain(system, root)
    base = plain.rsplit("/", 1)[0]
    if not _is_http(system):
        alone = system.isfile(root)
        names = sorted(system.find(system._parent(root) if alone else root))
        stem = root.rsplit(".", 1)[0]
        names = [name for name in names if not alone or name == root or name.startswith((stem + ".", stem + "/"))]
        return alone, system._parent(root) if alone else root, names
    if Path(plain).suffix.lower() not in SUFFIXES:
        return False, plain.rstrip("/"), sorted(system.find(root))
    stem = plain.rsplit(".", 1)[0]
    query = root[len(plain) :]
    beside = [f"{stem}{suffix}{query}" for suffix in (*CAMERA_SUFFIXES, ".prompt.txt")]
    return True, base, [root, *(name for name in beside if system.exists(name))]


def _plain(system: Any, name: str) -> str:
    """Returns a name without an HTTP query, which may hold a signature."""
    return name.split("?", 1)[0].split("#", 1)[0] if _is_http(system) else name


def _is_http(system: Any) -> bool:
    protocols = system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)
    return "http" in protocols or "https" in protocols
