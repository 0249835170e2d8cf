"""Columns as arrays, from rows or from Arrow, so that a million rows are checked in seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moworld_ops.data_contracts.quality import has_type

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Values:
    """A column: masks of missing values and of values of another type, numbers (NaN elsewhere), and the values themselves."""

    missing: Mask
    wrong: Mask
    numbers: NDArray[np.float64]
    source: Any  # a list, an Arrow array, or None for an absent column

    def at(self, index: int) -> Any:
        """Returns the value of a row."""
        value: Any = self.source[index] if self.source is not None else None
        return value.as_py() if hasattr(value, "as_py") else value

    def breaks(self, allows: Callable[[Any], bool]) -> Mask:
        """Returns the mask of rows whose value is present, has the right type, and is not allowed. `allows` runs once per different value."""
        codes, different = self._codes
        needed = np.zeros(len(different), bool)
        needed[codes[self._usable]] = True
        broken = np.array([bool(each) and not allows(value) for value, each in zip(different, needed, strict=True)], bool)
        return broken[codes] & self._usable

    @cached_property
    def _usable(self) -> Mask:
        return ~self.missing & ~self.wrong

    @cached_property
    def _codes(self) -> tuple[NDArray[np.int64], list[Any]]:
        """Returns the number of each row's value among the different values, and those."""
        if self.source is None or not self._usable.any():  # lists and structures have no dictionary
            return np.arange(len(self.missing)), [None] * len(self.missing)
        if isinstance(self.source, list):
            different: dict[Any, int] = {}
            codes = np.array([different.setdefault(_key(value), len(different)) for value in self.source], np.int64)
            return codes, [value if kind != "repr" else None for kind, value in different]
        encoded = self.source.dictionary_encode(null_encoding="encode")
        return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()

    @property
    def codes(self) -> NDArray[np.int64]:
        """Returns a number per row, equal for equal values."""
        return self._codes[0]


def _key(value: Any) -> tuple[str, Any]:
    return (type(value).__name__, value) if isinstance(value, str | int | float | bool | type(None)) else ("repr", repr(value))


def repeated(columns: Sequence[Values]) -> Mask:
    """Returns the mask of rows whose values of all these columns another row has too. A row with a missing value repeats nothing."""
    present = ~np.logical_or.reduce([values.missing for values in columns])
    codes = np.zeros(len(present), np.int64)
    for values in columns:
        codes = np.unique(codes * (int(values.codes.max(initial=0)) + 1) + values.codes, return_inverse=True)[1]
    return np.asarray(np.bincount(codes[present], minlength=int(codes.max(initial=0)) + 1)[codes] > 1, bool) & present


def from_list(values: list[Any], kind: str | None) -> Values:
    """Returns the column of a list; None and NaN are missing values. kind: logical type, None for any."""
    missing = np.array([value is None or value != value for value in values], bool)
    right = np.array([kind is None or has_type(value, kind) for value in values], bool)
    numbers = np.array([_number(value) for value in values], float)
    return Values(missing, ~missing & ~right, numbers, values)


def _number(value: Any) -> float:
    try:
        return float(value) if has_type(value, "number") else np.nan
    except OverflowError:  # an integer above the largest float
        return np.inf if value > 0 else -np.inf


def from_arrow(column: Any, kind: str | None, count: int) -> Values:
    """Returns the column of an Arrow chunked array (None: absent), whatever its encoding. kind: logical type, None for any.

    Raises pyarrow.ArrowInvalid if its bytes are no valid values, such as text that is not UTF-8.
    """
    import pyarrow
    import pyarrow.compute as pc

    if column is None or pyarrow.types.is_null(column.type):
        return Values(np.ones(count, bool), np.zeros(count, bool), np.full(count, np.nan), None)
    column = _plain(column)
    column.validate(full=True)
    types = pyarrow.types
    integer = types.is_integer(column.type) or (types.is_decimal(column.type) and column.type.scale <= 0)
    numeric = integer or types.is_floating(column.type) or types.is_decimal(column.type)
    numbers = column.cast("float64", safe=False).to_numpy(zero_copy_only=False) if numeric else np.full(count, np.nan)
    missing = np.isnan(numbers) if numeric else pc.is_null(column).to_numpy(zero_copy_only=False)
    string = types.is_string(column.type) or types.is_large_string(column.type)
    matches = {"string": string, "integer": integer, "number": numeric, "boolean": types.is_boolean(column.type)}
    right = kind is None or matches[kind]
    return Values(missing, np.zeros(count, bool) if right else ~missing, numbers, column)


def _plain(column: Any) -> Any:
    """Returns a chunked array as one array of the type of its values: without dictionary, runs, views and extension types."""
    import pyarrow

    array = column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column
    types = pyarrow.types
    if isinstance(array, pyarrow.ExtensionArray):
        return _plain(array.storage)
    if types.is_dictionary(array.type):
        return _plain(array.dictionary_decode())
    if types.is_run_end_encoded(array.type):
        return _plain(pyarrow.compute.run_end_decode(array))
    views = {pyarrow.string_view(): pyarrow.large_string(), pyarrow.binary_view(): pyarrow.large_binary(), pyarrow.float16(): pyarrow.float32()}
    return array.cast(views[array.type]) if array.type in views else array
