"""Contracts as pydantic models, for code that makes rows one at a time: the same types, bounds and required columns, as fields."""

from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from data_contracts.load import Contract, load_contract

PYTHON: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}


@cache
def row_model(name: str) -> type[BaseModel]:
    """The model of a row of contract `name`, for example `row_model("captions")(clip_id="a", caption="A hall.", ...)`."""
    return make_row_model(load_contract(name))


def make_row_model(contract: Contract) -> type[BaseModel]:
    """A pydantic model whose fields are the contract's columns; what is unique among rows one row cannot show.

    Columns of other contracts on the same rows are let through; NaN stands for a missing value and is refused where one is required.
    """
    fields: dict[str, Any] = {}
    for column in contract.columns:
        bounds = [rule for rule in contract.rules if rule.column == column.name and rule.kind == "range"]
        low = max((rule.minimum for rule in bounds if rule.minimum is not None), default=None)
        high = min((rule.maximum for rule in bounds if rule.maximum is not None), default=None)
        kind = PYTHON[column.logical_type]
        limits: dict[str, Any] = {key: value for key, value in (("ge", low), ("le", high)) if value is not None}
        described: Any = Field(... if column.required else None, description=column.description, **limits)
        fields[column.name] = (kind if column.required else kind | None, described)
    return create_model(f"{contract.name.title()}Row", __config__=ConfigDict(extra="ignore", strict=True, frozen=True), **fields)
