"""Opens one file of a clip or of a feature index and says what is wrong with it, given the row that names it.

Contracts name the kind of each file (`fileKind`), `make_openers` returns what opens it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moworld.camera.formats import read_cameras
from moworld.data.depth import read_depth
from moworld.data.points import VERTEX
from moworld.files import HASHES, read_json, read_json_object, sha256_file
from moworld.video import iterate_frames

Row = dict[str, Any]
Opener = Callable[[Path, Row], str]


def make_openers() -> dict[str, Opener]:
    """Returns a function by kind of file: of a path and the row that names it, to what is wrong, "" if nothing is.

    The functions raise InputError, OSError or ValueError for a file that cannot be read.
    """
    known = dict[Path, str]()

    def features(path: Path, row: Row) -> str:
        if path not in known:
            known[path] = _shard_fault(path)
        return known[path] or _clip_fault(path, row)

    return {"video": _video, "cameras": _cameras, "json": _json, "depth": _depth, "points": _points, "features": features}


def _video(path: Path, row: Row) -> str:
    """Decodes a video and compares its frames and size with the row."""
    sizes, frames = set[tuple[int, int]](), 0
    for frame in iterate_frames(path):
        sizes.add((frame.shape[1], frame.shape[0]))
        frames += 1
    expected = (row.get("width"), row.get("height"))
    if frames != row.get("num_frames"):
        return f"{frames} frames that decode, not {row.get('num_frames')}"
    return "" if sizes == {expected} else f"{' and '.join(f'{w}x{h}' for w, h in sorted(sizes))} pixels, not {expected[0]}x{expected[1]}"


def _cameras(path: Path, row: Row) -> str:
    return _of_length(len(read_cameras(path)), "cameras", row)


def _json(path: Path, _: Row) -> str:
    read_json(path)
    return ""


def _depth(path: Path, row: Row) -> str:
    sizes = [value if type(value := row.get(name)) is int and value > 0 else 1 for name in ("num_frames", "height", "width")]
    return _of_length(len(read_depth(path, sizes[0], (sizes[1], sizes[2]))), "maps", row)


def _of_length(count: int, name: str, row: Row) -> str:
    frames = row.get("num_frames")
    return "" if frames in (None, count) else f"{count} {name} for {frames} frames"


def _points(path: Path, _: Row) -> str:
    """Checks that a PLY file has as many vertices as its header states."""
    head, end, body = path.read_bytes().partition(b"end_header\n")
    count = next((line.split()[-1] for line in head.splitlines() if line.startswith(b"element vertex ")), b"")
    if not head.startswith(b"ply\n") or not end or not count.isdigit():
        return "no PLY header"
    return "" if len(body) == int(count) * VERTEX.itemsize else f"{len(body) // VERTEX.itemsize} points, not {int(count)}"


def _shard_fault(path: Path) -> str:
    """Compares a shard with the hash that its writer left beside it."""
    hashes = path.parent / HASHES
    expected = str(read_json_object(hashes).get(path.name, "")) if hashes.is_file() else ""
    found = sha256_file(path)
    return "" if expected in ("", found) else f"SHA-256 {found[:12]}, not {expected[:12]} of {HASHES}"


def _clip_fault(path: Path, row: Row) -> str:
    """Checks the tensors of a clip in the header of its shard."""
    from moworld.data.features import DTYPES
    from moworld.tensors import read_header

    with path.open("rb") as stream:
        tensors = read_header(stream, str(path))
    absent = [part for part in DTYPES if f"{row['clip_id']}/{part}" not in tensors]
    if absent:
        return f"no {', '.join(absent)} of the clip"
    return _of_length(tensors[f"{row['clip_id']}/c2w"].shape[0], "cameras", row)
