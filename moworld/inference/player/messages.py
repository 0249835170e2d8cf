"""What a browser may say to the player, and how much of it: parsed, bounded, refused with one line."""

import io
import struct
import time
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from moworld.camera.controls import KEYS
from moworld.errors import InputError

TEXT_BYTES = 4096
PICTURE_BYTES = 6 * 2**20
PICTURE_PIXELS = 25_000_000
HEADER = struct.Struct("!IId")  # frame number, number of the newest keys that it obeys, seconds the chunk took
_OPPOSITES = ("ws", "ad", "ik", "jl")


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Start(_Message):
    """Open a world anew. picture: the number of one of the offered ones, or null for the one uploaded last."""

    type: Literal["start"]
    prompt: str = Field(default="", max_length=500)
    seed: int = Field(default=0, ge=0, lt=2**31)
    picture: int | None = Field(default=0, ge=0)


class Keys(_Message):
    """The keys that are held now; `number` counts up, and comes back with the first frame that obeys them."""

    type: Literal["keys"]
    keys: str = Field(pattern=f"^[{KEYS}]{{0,8}}$")
    number: int = Field(ge=0, lt=2**31)

    @property
    def held(self) -> str:
        """The keys once each, without pairs that cancel each other."""
        keys = set(self.keys)
        for pair in _OPPOSITES:
            if keys >= set(pair):
                keys -= set(pair)
        return "".join(key for key in KEYS if key in keys)


class Pause(_Message):
    type: Literal["pause"]
    paused: bool


class Shown(_Message):
    """The newest frame that the browser has drawn: frames are dropped where it lags behind."""

    type: Literal["shown"]
    frame: int = Field(ge=0, lt=2**32)


class Record(_Message):
    type: Literal["record"]
    on: bool


Message = Start | Keys | Pause | Shown | Record
_adapter: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def parse(text: str) -> Message:
    """A message from its JSON. Raises InputError for anything else."""
    if len(text) > TEXT_BYTES:
        raise InputError("message", "", f"{len(text)} characters", f"at most {TEXT_BYTES}", "send less")
    try:
        return _adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            "message", where, repr(first.get("input"))[:60], first["msg"], "see moworld/inference/player/messages.py"
        ) from None


def read_picture(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of an uploaded JPEG, PNG or WebP. Its size is read before its pixels: a small file may hold a huge picture.

    Raises InputError for anything else.
    """
    from PIL import Image, ImageOps

    if len(data) > PICTURE_BYTES:
        raise InputError("picture", "", f"{len(data)} bytes", f"at most {PICTURE_BYTES}", "send a smaller file")
    mend = "send a JPEG, PNG or WebP"
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as picture:
            if picture.width * picture.height > PICTURE_PIXELS or min(picture.size) < 16:
                raise InputError("picture", "size", f"{picture.width}x{picture.height}", f"16x16 to {PICTURE_PIXELS} pixels", "resize it")
            picture.draft("RGB", (2048, 2048))
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # the decoder of a hostile file may raise anything
        raise InputError("picture", "", f"{type(error).__name__}", "a picture", mend) from None


class Allowance:
    """A token bucket: `rate` messages a second in the long run, `burst` at once."""

    def __init__(self, rate: float, burst: float, clock: Any = time.monotonic) -> None:
        self.rate, self.burst, self.clock = rate, burst, clock
        self.left, self.at = burst, clock()

    def take(self, cost: float = 1.0) -> bool:
        """Whether one more is within the allowance."""
        now = self.clock()
        self.left, self.at = min(self.burst, self.left + self.rate * (now - self.at)), now
        if self.left < cost:
            return False
        self.left -= cost
        return True
