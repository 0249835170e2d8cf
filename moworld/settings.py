"""The base class of all settings: frozen; unknown keys are rejected."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen settings that reject unknown keys. Defaults are in the type that uses them, sizes in profiles."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
