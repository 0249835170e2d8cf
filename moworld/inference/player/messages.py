"""Messages of a browser to the player: parsed, bounded, and refused in one line."""

import struct
import time
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from moworld.camera.controls import KEYS, OPPOSITES
from moworld.errors import InputError, invalid_value

TEXT_BYTES = 8192
MAX_WALK = 2000  # characters of a walk's controls in a link
SESSION = r"[0-9a-f]{32}"  # of a page, chosen by it at random: who has it continues the walk
HEADER = struct.Struct("!IId")  # of a frame: its number, number of the newest keys it follows, seconds of its chunk


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Start(_Message):
    """Opens a new world; of several that come at once, the newest.

    picture: index of an offered picture, or null for the newest upload
    walk:    controls of a walk that is made at once before the visitor's own keys, as of a shared link, such as "w*24,l*12"
    """

    type: Literal["start"]
    prompt: str = Field(default="", max_length=500)
    seed: int = Field(default=0, ge=0, lt=2**31)
    picture: int | None = Field(default=0, ge=0)
    walk: str = Field(default="", max_length=MAX_WALK)


class Keys(_Message):
    """The keys held now. `number` increases; frames that follow these keys carry it."""

    type: Literal["keys"]
    keys: str = Field(pattern=f"^[{KEYS}]{{0,8}}$")
    number: int = Field(ge=0, lt=2**31)

    @property
    def held(self) -> str:
        """The keys once each, without opposite pairs."""
        opposed = {key for pair in OPPOSITES if set(pair) <= set(self.keys) for key in pair}
        return "".join(key for key in KEYS if key in self.keys and key not in opposed)


class Pause(_Message):
    type: Literal["pause"]
    paused: bool


class Shown(_Message):
    """The newest frame that the browser has drawn; frames are dropped if it falls behind."""

    type: Literal["shown"]
    frame: int = Field(ge=0, lt=2**32)


class Record(_Message):
    type: Literal["record"]
    on: bool


Message = Start | Keys | Pause | Shown | Record
_adapter: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def parse(text: str) -> Message:
    """Returns the message of a JSON text. Raises InputError for anything else."""
    if len(text) > TEXT_BYTES:
        raise InputError("message", "", f"{len(text)} characters", f"at most {TEXT_BYTES}", "send less")
    try:
        return _adapter.validate_json(text)
    except ValidationError as error:
        raise invalid_value("message", error, "see moworld/inference/player/messages.py") from None


class RateLimit:
    """Token bucket: `rate` per second on average, `burst` at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self.clock = rate, burst, clock
        self.left, self.at = burst, clock()

    def take(self) -> bool:
        """Returns whether one more is within the limit, and counts it if so."""
        now = self.clock()
        self.left, self.at = min(self.burst, self.left + self.rate * (now - self.at)), now
        if self.left < 1:
            return False
        self.left -= 1
        return True
