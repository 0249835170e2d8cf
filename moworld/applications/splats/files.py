"""Scene files that viewers of splats read: .ply with the field names of Kerbl et al. 2023, and the 32-byte records of .splat.

Both store standard deviations, rotations with w first and positions in the scene's units. A .ply stores parameters before their
activation (log scale, opacity logit, spherical harmonics); a .splat stores scales, and colour and opacity as bytes.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from moworld.applications.splats.scene import C0, COLOURS, MEANS, OPACITY, ROTATIONS, SCALES, Scene
from moworld.errors import InputError
from moworld.files import Pathlike, atomic_write

SPLAT = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("colour", "u1", 4), ("rotation", "u1", 4)])
HEADER = ("ply", "format binary_little_endian 1.0")
NAMES = {"scale": [f"scale_{axis}" for axis in range(3)], "rot": [f"rot_{index}" for index in range(4)]}
LONGEST_HEADER = 65_536  # bytes
FIX = "write the scene again with 'moworld apply splats'"


def field_names(degree: int) -> list[str]:
    """Returns the properties of a .ply in their order; f_rest are the coefficients of degree 1, those of red first."""
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{index}" for index in range(9 if degree else 0)]
    return [*names, "opacity", *NAMES["scale"], *NAMES["rot"]]


def write_scene(path: Pathlike, scene: Scene, comments: tuple[str, ...] = ()) -> None:
    """Writes a scene as binary .ply, or as .splat by the suffix of the path, atomically. comments: lines of the .ply's header."""
    data = _splat(scene) if Path(path).suffix == ".splat" else _ply(scene, comments)
    with atomic_write(path) as stream:
        stream.write(data)


def _ply(scene: Scene, comments: tuple[str, ...]) -> bytes:
    rows = scene.rows.detach().cpu().numpy().astype("<f4")
    rest = rows[:, COLOURS][:, 3:].reshape(len(rows), -1, 3).transpose(0, 2, 1).reshape(len(rows), -1)
    quaternions = _unit(rows[:, ROTATIONS])
    columns = [rows[:, MEANS], np.zeros_like(rows[:, MEANS]), rows[:, COLOURS][:, :3], rest, rows[:, OPACITY, None], rows[:, SCALES], quaternions]
    header = [*HEADER, *(f"comment {line}" for line in comments), f"element vertex {len(rows)}"]
    header += [*(f"property float {name}" for name in field_names(scene.degree)), "end_header\n"]
    return "\n".join(header).encode() + np.concatenate(columns, axis=1).astype("<f4").tobytes()


def _splat(scene: Scene) -> bytes:
    """Returns the records of antimatter15's viewer, the largest and most opaque gaussians first, without view-dependent colour."""
    rows = scene.rows.detach().cpu()
    order = torch.argsort(-rows[:, SCALES].sum(1).exp() * rows[:, OPACITY].sigmoid(), stable=True)
    values = rows[order].numpy()
    records = np.zeros(len(values), SPLAT)
    records["position"], records["scale"] = values[:, MEANS], np.exp(values[:, SCALES])
    records["colour"][:, :3] = np.clip((0.5 + C0 * values[:, COLOURS][:, :3]) * 255, 0, 255).round()
    records["colour"][:, 3] = np.clip(255 / (1 + np.exp(-values[:, OPACITY])), 0, 255).round()
    records["rotation"] = np.clip(_unit(values[:, ROTATIONS]) * 128 + 128, 0, 255).round()
    return records.tobytes()


def _unit(quaternions: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True), np.float32)


def read_scene(path: Pathlike) -> Scene:
    """Returns the scene of a binary .ply with the fields above, in any order and among others; degrees above 1 are dropped.

    Raises InputError for a missing file, another format, a missing field, a value that is not finite, and a file of another length.
    """
    names, count, data = _parsed(Path(path))
    table = np.frombuffer(data, np.dtype([(name, "<f4") for name in names]), count)
    rest = sorted((name for name in names if name.startswith("f_rest_")), key=lambda name: int(name.removeprefix("f_rest_")))
    degree = 1 if len(rest) >= 9 else 0
    wanted = [name for name in field_names(0) if name not in ("nx", "ny", "nz")]
    if missing := [name for name in wanted if name not in names]:
        raise InputError(path, "header", f"no property {missing[0]}", "the properties of a scene of gaussians", FIX)
    rows = np.zeros((count, 23 if degree else 14), np.float32)
    for columns, fields in ((MEANS, ["x", "y", "z"]), (SCALES, NAMES["scale"]), (ROTATIONS, NAMES["rot"])):
        rows[:, columns] = np.stack([table[name] for name in fields], axis=1)
    rows[:, OPACITY] = table["opacity"]
    per_channel = len(rest) // 3
    linear = [rest[channel * per_channel + k] for k in range(3) for channel in range(3)] if degree else []
    colours = ["f_dc_0", "f_dc_1", "f_dc_2", *linear]
    rows[:, COLOURS] = np.stack([table[name] for name in colours], axis=1)
    if not np.isfinite(rows).all():
        raise InputError(path, f"vertex {int(np.argmin(np.isfinite(rows).all(axis=1)))}", "NaN or infinity", "finite numbers", FIX)
    if not rows[:, ROTATIONS].any(axis=1).all():
        raise InputError(path, f"vertex {int(np.argmin(rows[:, ROTATIONS].any(axis=1)))}", "a rotation of zeros", "a quaternion", FIX)
    return Scene(torch.from_numpy(rows))


def _parsed(path: Path) -> tuple[list[str], int, bytes]:
    """Returns names of the properties, number of vertices and the data of a binary .ply whose properties are all float."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(path, "", error.strerror or error, "a .ply scene", "check the path") from None
    head, end, data = content[:LONGEST_HEADER].partition(b"end_header\n")
    lines = [line.strip() for line in head.decode("ascii", "replace").splitlines()]
    if not end or lines[:2] != list(HEADER):
        raise InputError(path, "header", repr(lines[:2])[:80], f"{HEADER[0]}, {HEADER[1]}", FIX)
    names, count = list[str](), -1
    for words in (line.split() for line in lines[2:] if line and not line.startswith("comment")):
        if words[0] == "element" and len(words) == 3 and words[1] == "vertex" and words[2].isdigit() and count < 0:
            count = int(words[2])
        elif words[0] == "property" and len(words) == 3 and words[1] in ("float", "float32") and count >= 0:
            names.append(words[2])
        else:
            raise InputError(path, "header", repr(" ".join(words))[:80], "one element vertex with float properties", FIX)
    data = content[len(head) + len(end) :]
    if count < 1 or not names or len(data) != 4 * len(names) * count:
        raise InputError(path, "", f"{len(data)} bytes for {max(count, 0)} gaussians", f"{4 * len(names) * max(count, 1)}", FIX)
    return names, count, data
