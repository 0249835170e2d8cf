"""Where a video comes from: a JSON file beside it (FILE.json), with which the video can be checked and computed again.

    record     what the file is (SHA-256), the model (digest, name and version, data revision), seed, prompt, keys or poses, first picture,
               and the digest of every chunk's frames
    signature  of the record by the project's key; null: unsigned, so anyone could have written it

Equal controls, seed, picture and model give equal frames on a machine of the same kind. Making and checking signatures is not here
(`moworld_ops/components/platform/provenance.py`), because a machine that only serves has no keys.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationError

from moworld.documents import parse_json_object
from moworld.errors import InputError, invalid_value
from moworld.files import Pathlike, sha256_file, write_json
from moworld.settings import Settings
from moworld.video import Frames

FORMAT = "moworld-provenance/1"
MAX_BYTES = 64 * 2**20
MAX_TEXT = 1_000_000  # characters of the keys
MAX_POSES = 100_000
MAX_CHUNKS = 100_000
UNSIGNED = "unsigned: anyone could have written this record"
FIX = "use the file that was written with the video"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(max_length=300)]
Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")]


class ModelIdentity(Settings):
    """A model: SHA-256 of its folder's files (`sha256_tree`); name, version and data revision if a registry has it; who signed it."""

    sha256: Digest
    name: Name = ""
    version: Name = ""
    data_revision: Name = ""
    signed_by: Name = ""  # fingerprint of the key of the model's signature, if that was verified


class Controls(Settings):
    """What the video can be computed again from, with the model.

    actions:       keys and frames, as in "w*48,l*24"; "" with poses
    poses:         float64 c2w (T, 4, 4) of the frames after the first, little-endian, in base64; "" with actions
    picture:       the first frame as PNG in base64, as large as the model's frames
    picture_sha256: of the file that it was read from; for a recording of the player, of `picture` itself
    backend:       what denoised; other backends give slightly other frames
    """

    actions: str = Field(default="", max_length=MAX_TEXT)
    poses: Base64 = ""
    prompt: str = Field(default="", max_length=100_000)
    seed: int = Field(ge=-(2**63), lt=2**64)
    picture: Base64
    picture_sha256: Digest
    chunk_latents: int = Field(ge=1, le=64)
    backend: Literal["torch", "openvino"] = "torch"
    quantized_while_loading: bool = False


class FrameDigests(Settings):
    """Size, rate and SHA-256 of the frames before they were compressed: the first frame, then every chunk (uint8 RGB bytes)."""

    count: int = Field(ge=1, le=10_000_000)
    height: int = Field(ge=1, le=8192)
    width: int = Field(ge=1, le=8192)
    fps: float = Field(gt=0, le=1000)
    chunks: tuple[Digest, ...] = Field(min_length=1, max_length=MAX_CHUNKS)


class Record(Settings):
    """The record of a video (see the module).

    first_frame: number of the frame, among those that `controls` and `frames` describe, with which the video begins
    """

    format: Literal["moworld-provenance/1"]
    kind: Literal["rollout", "recording"]
    file: Name
    sha256: Digest
    created: Name
    software: Name
    model: ModelIdentity
    controls: Controls
    frames: FrameDigests
    first_frame: int = Field(default=0, ge=0, le=10_000_000)


class Signature(Settings):
    """An ECDSA signature of `signed_bytes` in base64, and the fingerprint of its key."""

    key: Name
    value: Base64


class Sidecar(Settings):
    """The content of FILE.json. `status` repeats for readers whether there is a signature."""

    record: Record
    signature: Signature | None
    status: Name


Signer = Callable[[bytes], Signature]
Embedder = Callable[[Path, dict[str, Any]], None]  # writes a manifest with these facts into a video that is complete


def sidecar_path(video: Pathlike) -> Path:
    """Returns the path of a video's sidecar."""
    return Path(f"{video}.json")


def write_sidecar(
    video: Path,
    kind: str,
    model: ModelIdentity,
    controls: Controls,
    frames: FrameDigests,
    sign: Signer | None,
    first_frame: int = 0,
    embed: Embedder | None = None,
) -> Path:
    """Writes the sidecar of a video that is complete, and returns its path.

    sign:  None leaves it unsigned, and marked so
    embed: changes the video, before its digest is taken; None leaves it as it is
    """
    if embed is not None:
        known = {"kind": kind, "prompt": controls.prompt, "seed": controls.seed, "frames": frames.count, "model": model.model_dump()}
        embed(video, known)
    facts: dict[str, Any] = {
        "format": FORMAT, "kind": kind, "file": video.name, "sha256": sha256_file(video), "software": f"moworld {version('moworld-operations')}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "model": model, "controls": controls, "frames": frames,
        "first_frame": first_frame,
    }  # fmt: skip
    record = Record(**facts).model_dump(mode="json")
    signature = None if sign is None else sign(signed_bytes(record))
    status = UNSIGNED if signature is None else f"signed by key {signature.key[:12]}"
    path = sidecar_path(video)
    write_json(path, {"record": record, "signature": signature and signature.model_dump(), "status": status})
    return path


def read_sidecar(path: Path) -> tuple[Sidecar, bytes]:
    """Returns a sidecar and the bytes that its signature is of. Raises InputError for anything that is not a sidecar."""
    if not path.is_file():
        raise InputError(path, "", "no such file", "the JSON file that was written with the video", "check the path")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError(path, "", f"{size} bytes", f"at most {MAX_BYTES}", FIX)
    values = parse_json_object(path.read_bytes(), path, FIX)
    try:
        return Sidecar(**values), signed_bytes(values["record"])
    except ValidationError as error:
        raise invalid_value(path, error, FIX) from None


def signed_bytes(record: dict[str, Any]) -> bytes:
    """Returns the canonical bytes of a record, with the format before them: a signature of something else is never one of a record."""
    return f"{FORMAT}\n{json.dumps(record, sort_keys=True, separators=(',', ':'))}".encode()


def digests_of(chunks: Sequence[Frames], fps: float) -> FrameDigests:
    """Returns the digests of the first frame (1, H, W, 3) and the chunks (T, H, W, 3), uint8."""
    height, width = chunks[0].shape[1:3]
    return FrameDigests(count=sum(map(len, chunks)), height=height, width=width, fps=fps, chunks=tuple(map(digest_of, chunks)))


def digest_of(frames: Frames) -> str:
    """Returns the SHA-256 of frames (T, H, W, 3) uint8."""
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()


def encode_picture(picture: Frames) -> str:
    """Returns a picture (H, W, 3) uint8 as PNG in base64."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def decode_bytes(text: str) -> bytes:
    """Returns the bytes of base64. Raises InputError for other text."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise InputError("record", "base64", f"{len(text)} characters that are not base64", "base64", FIX) from None


def encode_poses(c2w: NDArray[np.float64]) -> str:
    """Returns poses (T, 4, 4) in base64."""
    return base64.b64encode(np.ascontiguousarray(c2w, dtype="<f8").tobytes()).decode()


def decode_poses(text: str) -> NDArray[np.float64]:
    """Returns poses (T, 4, 4). Raises InputError for other bytes and for NaN or infinity."""
    data = decode_bytes(text)
    if not data or len(data) % 128 or len(data) > 128 * MAX_POSES:
        raise InputError("record", "controls.poses", f"{len(data)} bytes", f"1 to {MAX_POSES} matrices of 16 float64", FIX)
    poses = np.frombuffer(data, "<f8").reshape(-1, 4, 4).astype(np.float64)
    if not np.isfinite(poses).all():
        raise InputError("record", "controls.poses", "NaN or infinity", "finite numbers", FIX)
    return poses
