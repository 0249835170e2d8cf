"""Messages of /v1/realtime/video as vLLM-Omni's public source defines them: parsed, bounded, and refused in one line.

Which version, and what differs here, is in docs/concepts/realtime-video.md. Fields that mean nothing here are ignored, as there.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from moworld.errors import InputError, invalid_value

START_BYTES, CONTROL_BYTES = 12 * 2**20, 128 * 1024  # a start may hold a picture in base64
MAX_FRAMES = 3600
MAX_TRANSITION = 64
MAX_MOVE = 100.0  # model units
FIX = "see docs/concepts/realtime-video.md"
DATA_URL = "data:image/"
UNSUPPORTED = ("camera_action_script", "action_path")  # of extra_params; other names have no meaning here


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class ImageReference(_Message):
    image_url: str


class SessionStart(_Message):
    """Opens a world. fps: None is the server's; num_frames: None goes on until the session is stopped; image_reference: a data URL."""

    type: Literal["session.start"]
    model: str | None = None
    prompt: str = Field(max_length=500)
    format: Literal["m4s"] = "m4s"
    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    size: str | None = Field(default=None, pattern=r"^\d{1,5}x\d{1,5}$")
    fps: int | None = Field(default=None, ge=1, le=120)
    num_frames: int | None = Field(default=None, ge=1, le=MAX_FRAMES)
    seconds: str | None = Field(default=None, pattern=r"^[1-9]\d{0,4}$")
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    image_reference: ImageReference | None = None
    extra_params: dict[str, Any] | None = None

    @field_validator("extra_params")
    @classmethod
    def _supported(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if found := [name for name in UNSUPPORTED if name in (value or {})]:
            raise ValueError(f"{found[0]} is not supported: send session.interaction with a camera")
        return value

    @model_validator(mode="after")
    def _picture_within_the_message(self) -> "SessionStart":
        if self.image_reference is not None and not self.image_reference.image_url.startswith(DATA_URL):
            raise ValueError("image_reference.image_url must be a data: URL of a picture: this server fetches nothing")
        return self


class CameraData(_Message):
    """translation (3), and rotation as a quaternion x y z w."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)

    @field_validator("translation", "rotation")
    @classmethod
    def _bounded(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if max(map(abs, value)) > MAX_MOVE:
            raise ValueError(f"numbers must be within {MAX_MOVE:g}")
        return value

    @field_validator("rotation")
    @classmethod
    def _not_zero(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if sum(number * number for number in value) < 1e-12:
            raise ValueError("rotation must not be zero")
        return value


class Camera(_Message):
    """`target`: a pose in the world of the first frame; `velocity`: the change over a latent frame, held until replaced."""

    mode: Literal["target", "velocity"] = "target"
    data: CameraData


class MultiModal(_Message):
    camera: Camera


class Event(_Message):
    prompt: str | None = Field(default=None, max_length=500)
    negative_prompt: None = None
    multi_modal_data: MultiModal | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> "Event":
        if self.multi_modal_data is None and self.prompt is None:
            raise ValueError("event needs a prompt or multi_modal_data.camera")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("event.prompt must not be empty")
        return self


class InteractionBody(_Message):
    """transition_chunks: over which a prompt or a target is reached; None is 1."""

    event_id: str | None = Field(default=None, min_length=1, max_length=200)
    event: Event
    transition_chunks: int | None = Field(default=None, ge=0, le=MAX_TRANSITION)

    @field_validator("transition_chunks", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else value


class Interaction(_Message):
    type: Literal["session.interaction"]
    interaction: InteractionBody


class Stop(_Message):
    type: Literal["session.stop"]


class Ping(_Message):
    type: Literal["session.ping"]


Control = Interaction | Stop | Ping
_start: TypeAdapter[SessionStart] = TypeAdapter(SessionStart)
_control: TypeAdapter[Control] = TypeAdapter(Annotated[Control, Field(discriminator="type")])


def parse_start(text: str) -> SessionStart:
    """Returns the first message of a session. Raises InputError for anything else."""
    return _parsed(_start, text, START_BYTES)


def parse_control(text: str) -> Control:
    """Returns a later message. Raises InputError for anything else."""
    return _parsed(_control, text, CONTROL_BYTES)


def _parsed(adapter: TypeAdapter[Any], text: str, limit: int) -> Any:
    if len(text) > limit:
        raise InputError("message", "", f"{len(text)} characters", f"at most {limit}", "send less")
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise invalid_value("message", error, FIX) from None


def frame_size(start: SessionStart) -> tuple[int | None, int | None]:
    """Returns the requested width and height; `size` counts more than the two alone."""
    if start.size is None:
        return start.width, start.height
    width, height = start.size.split("x")
    return int(width), int(height)
