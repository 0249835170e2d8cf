"""The form of run.json and of the records of steps: what the commands read of them. Other fields are kept as they are."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError, model_validator

from moworld.errors import invalid_value
from moworld.files import read_json_object

Moment = Annotated[float, Field(strict=True, ge=0, le=1e11, allow_inf_nan=False)]  # seconds since 1970, of years that a date can have
Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # below 0 if the clock went back


class _Form(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Output(_Form):
    path: StrictStr


class _Step(_Form):
    """A record of a step: steps/<step>.json."""

    status: StrictStr
    started: Moment | None = None
    seconds: Seconds = 0
    outputs: dict[str, _Output] = {}


class _StepOfRun(_Step):
    index: Annotated[int, Field(strict=True)]


class _Attempt(_Form):
    started: Moment
    status: StrictStr = ""


class _Cluster(_Form):
    endpoint: StrictStr
    id: StrictStr


class _Registry(_Form):
    tracking: StrictStr = ""


class _Settings(_Form):
    registry: _Registry = _Registry()


class _Record(_Form):
    """The record of a run: run.json."""

    status: StrictStr
    engine: StrictStr = "local"
    pipeline: StrictStr | None = None
    profile: StrictStr | None = None
    started: Moment | None = None
    seconds: Seconds | None = None
    engine_process: Annotated[str, Field(strict=True, pattern=r"^(\d{1,18}(:.*)?)?$")] = ""
    attempts: list[_Attempt] = []
    steps: dict[str, _StepOfRun] | None = None
    settings: _Settings = _Settings()
    kubeflow: _Cluster | None = None

    @model_validator(mode="after")
    def _place(self) -> "_Record":
        if self.engine == "kubeflow" and self.kubeflow is None:
            raise ValueError("endpoint and id of a run on a cluster, in `kubeflow`")
        return self


def read_run(path: Path) -> dict[str, Any]:
    """Returns the record of a run. Raises InputError for a file of another form."""
    return _read(path, _Record, f"restore it from a copy, or move {path.parent} elsewhere")


def read_step(path: Path) -> dict[str, Any]:
    """Returns the record of a step. Raises InputError for a file of another form."""
    return _read(path, _Step, "restore it from a copy, or delete it: a resumed run makes the step again")


def _read(path: Path, form: type[_Form], fix: str) -> dict[str, Any]:
    record = read_json_object(path)
    try:
        form.model_validate(record)
    except ValidationError as error:
        raise invalid_value(path, error, fix) from None
    return record
