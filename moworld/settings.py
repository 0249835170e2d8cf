"""The base of every settings type: frozen, and a key it does not know is refused."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen settings; unknown keys are errors. Defaults stand in the type that uses them, sizes stand in profiles."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
