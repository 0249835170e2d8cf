"""The base class of all settings, and numbers with a range. Settings are frozen; unknown keys, NaN and infinity are rejected.

Every number in a settings type has a smallest and a largest value. The types here are for numbers whose largest value only has to be one
that no hardware reaches; a size that decides how much is allocated or looped over has its own bound in its field.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

NonNegativeInt = Annotated[int, Field(ge=0, le=1_000_000_000)]
PositiveInt = Annotated[int, Field(gt=0, le=1_000_000_000)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e24)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e24)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # NumPy's range


class Settings(BaseModel):
    """Frozen settings that reject unknown keys. Defaults are in the type that uses them, sizes in profiles."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_as_number(cls, values: Any) -> Any:
        """Refuses true and false for a number: pydantic takes them as 1 and 0."""
        kinds = {name: str(field.annotation) for name, field in cls.model_fields.items()}
        wrong: list[Any] = [
            {"type": "float_type" if "float" in kind else "int_type", "loc": (name,), "input": value}
            for name, value in (values.items() if isinstance(values, dict) else ())
            if isinstance(value, bool) and ("int" in (kind := kinds.get(name, "")) or "float" in kind) and "bool" not in kind
        ]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return values
