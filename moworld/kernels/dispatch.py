"""Chooses an operator's implementation by device, dtype, sizes and required results, and reports why the others were refused.

A caller can name an implementation (argument `backend`, or `named`), and so can the environment, as in
MOWORLD_KERNELS="attention=reference,int8_linear=int_mm". A named implementation that cannot run is an error: nothing falls back silently.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any

import torch

from moworld.kernels import OPERATORS, NoKernel

VARIABLE = "MOWORLD_KERNELS"
GRADIENTS, LOG_SUM_EXP = "gradients", "log-sum-exp"  # results that a call can require beyond the output
Results = tuple[str, ...]
Sizes = Mapping[str, int]
_named: ContextVar[Mapping[str, str]] = ContextVar("named", default=MappingProxyType({}))


def needs(package: str) -> Callable[[], str]:
    """Returns a probe for an installed package. The probe does not import it."""
    return lambda: "" if find_spec(package) else f"{package} is not installed"


def wants_gradient(*tensors: torch.Tensor) -> bool:
    """Returns whether autograd records operations on any of the tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


@dataclass(frozen=True)
class Implementation:
    """One implementation of an operator, and the calls that it serves.

    target:     the "module" or "module:function" of the operator's folder that is imported when it is chosen
    why_not:    returns why this machine cannot run it, "" if it can
    dtypes:     of the activations; None: every float dtype
    limits:     the largest sizes it supports, by the names that the operator gives
    worthwhile: sizes below which a later entry of the table is faster; ignored if the implementation is named
    lacks:      results it cannot provide
    slow_for:   results that a later entry provides faster; ignored if the implementation is named
    """

    name: str
    devices: tuple[str, ...]
    target: str
    why_not: Callable[[], str] = lambda: ""
    dtypes: tuple[torch.dtype, ...] | None = None
    limits: Sizes = field(default_factory=dict)
    worthwhile: Sizes = field(default_factory=dict)
    lacks: Results = ()
    slow_for: Results = ()

    def refuses(self, device: str, dtype: torch.dtype | None, requires: Results, sizes: Sizes, is_named: bool = False) -> str:
        """Returns why it does not serve such a call, "" if it does. dtype None and absent sizes fit every implementation."""
        if device not in self.devices:
            return f"serves {', '.join(self.devices)}"
        if reason := self.why_not():
            return reason
        if dtype is not None and self.dtypes is not None and dtype not in self.dtypes:
            return f"takes {', '.join(map(_short, self.dtypes))}, not {_short(dtype)}"
        reasons = [f"computes no {result}, which the call requires" for result in requires if result in self.lacks]
        reasons += [f"takes {name} up to {most}, not {sizes[name]}" for name, most in self.limits.items() if sizes.get(name, 0) > most]
        if not is_named:
            reasons += [f"is slower for calls that require {result}" for result in requires if result in self.slow_for]
            pairs = ((name, least, sizes.get(name, least)) for name, least in self.worthwhile.items())
            reasons += [f"is faster from {name} {least} on, not at {size}" for name, least, size in pairs if size < least]
        return next(iter(reasons), "")


@dataclass(frozen=True)
class Choice:
    """The chosen implementation, what its target resolves to, and the reasons of those refused before it."""

    name: str
    implementation: Any
    refused: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator's implementations, best first, the reference last.

    variants: kinds of calls that get different implementations: a suffix of the operator's name, and the results they require
    """

    name: str
    table: tuple[Implementation, ...]
    variants: Mapping[str, Results] = field(default_factory=lambda: {"": ()})

    def choose(
        self, device: str, backend: str | None = None, dtype: torch.dtype | None = None, requires: Results = (), **sizes: int
    ) -> Choice:
        """Returns the first implementation that serves such a call, or the one named by `backend`, `named` or MOWORLD_KERNELS.

        Raises NoKernel if the named implementation is unknown or cannot serve the call, or if none can.
        """
        from_environment = overrides().get(self.name)
        name = backend or _named.get().get(self.name)
        source = "" if name or not from_environment else f" ({VARIABLE})"
        return _choose(self, device, name or from_environment, source, dtype, requires, tuple(sizes.items()))


@lru_cache(maxsize=4096)
def _choose(
    operator: Operator, device: str, name: str | None, source: str, dtype: torch.dtype | None, requires: Results, sizes: tuple[Any, ...]
) -> Choice:
    refused: dict[str, str] = {}
    for entry in operator.table:
        if name in (None, entry.name):
            reason = entry.refuses(device, dtype, requires, dict(sizes), is_named=name is not None)
            if not reason:
                return Choice(entry.name, resolve_name(f"moworld.kernels.{operator.name}.{entry.target}"), refused)
            refused[entry.name] = reason
    if name is None:
        reasons = "; ".join(f"{entry} {reason}" for entry, reason in refused.items())
        raise NoKernel(f"kernel {operator.name}: no implementation for {device}: {reasons}")
    if not refused:
        available = ", ".join(entry.name for entry in operator.table)
        raise NoKernel(f"kernel {operator.name}: no implementation is named {name}{source}; available: {available}")
    raise NoKernel(f"kernel {operator.name}: no implementation named {name}{source} for {device}: {refused[name]}")


def operators() -> list[Operator]:
    """Returns every operator."""
    return [import_module(f"moworld.kernels.{name}").OPERATOR for name in OPERATORS]


def overrides() -> Mapping[str, str]:
    """Returns the implementations that MOWORLD_KERNELS names, by operator. Raises NoKernel if the variable is malformed."""
    return _parse(os.environ.get(VARIABLE, ""))


@cache
def _parse(text: str) -> Mapping[str, str]:
    names: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        operator, _, name = (part.strip() for part in item.partition("="))
        if operator == "sdpa" and name:
            name = "sdpa" if name == "reference" else name
            raise NoKernel(f"{VARIABLE}: found {item!r}, but operator sdpa is part of attention now; write attention={name}")
        if operator not in OPERATORS or not name:
            raise NoKernel(f"{VARIABLE}: found {item!r}, expected OPERATOR=IMPLEMENTATION with an operator of {', '.join(OPERATORS)}")
        names[operator] = name
    return names


@contextmanager
def named(**implementations: str) -> Iterator[None]:
    """Names implementations by operator for the calls of this thread or task inside the block, as benchmarks and tests do.

    Raises NoKernel if an operator is unknown.
    """
    if unknown := implementations.keys() - set(OPERATORS):
        raise NoKernel(f"named: found {', '.join(sorted(unknown))}, expected an operator of {', '.join(OPERATORS)}")
    token = _named.set({**_named.get(), **implementations})
    try:
        yield
    finally:
        _named.reset(token)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
