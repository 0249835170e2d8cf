"""Which implementation of an operator runs, and why: a table by device, dtype and size.

The choice is explained on request (`moworld doctor`). A call names an implementation, or the environment does for all calls, as in
MOWORLD_KERNELS="attention=reference,int8_linear=int_mm"; one that is named and cannot run is an error. Nothing falls back in silence.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from kernels import OPERATORS, NoKernel
from kernels.chips import cpu_flags

VARIABLE = "MOWORLD_KERNELS"


@dataclass(frozen=True)
class Implementation:
    """One implementation, and what it serves.

    why_not: says why it cannot run on this machine, "" when it can
    load:    imports it: a function, or a module of functions
    dtypes:  of the activations; None is every float
    limits:  the largest sizes it takes, by the names that the face gives
    differentiable: whether gradients flow through its result, where the face asks for them
    """

    name: str
    devices: tuple[str, ...]
    why_not: Callable[[], str]
    load: Callable[[], Any]
    dtypes: tuple[torch.dtype, ...] | None = None
    limits: tuple[tuple[str, int], ...] = ()
    differentiable: bool = True

    def refuses(self, device: str, dtype: torch.dtype | None, gradient: bool, sizes: dict[str, int]) -> str:
        """Why it does not serve such a call; "" when it does."""
        if device not in self.devices:
            return f"serves {', '.join(self.devices)}"
        if reason := self.why_not():
            return reason
        if dtype is not None and self.dtypes is not None and dtype not in self.dtypes:
            return f"takes {', '.join(str(known).removeprefix('torch.') for known in self.dtypes)}, not {str(dtype).removeprefix('torch.')}"
        if gradient and not self.differentiable:
            return "computes no gradients, and they are asked for"
        over = (f"takes {name} up to {most}, not {sizes[name]}" for name, most in self.limits if sizes.get(name, 0) > most)
        return next(over, "")


@dataclass(frozen=True)
class Choice:
    """What was taken for a call, and what was refused with its reason."""

    name: str
    operator: Any
    refused: dict[str, str]


@dataclass(frozen=True)
class Operator:
    """An operator's table, best first, and the choices made so far."""

    name: str
    table: tuple[Implementation, ...]
    _choices: dict[tuple[Any, ...], Choice] = field(default_factory=dict, compare=False, repr=False)

    def choose(
        self, device: str, wanted: str | None = None, dtype: torch.dtype | None = None, gradient: bool = False, **sizes: int
    ) -> Choice:
        """The first implementation of the table that serves such a call, or the one asked for by name, here or by MOWORLD_KERNELS.

        dtype None and absent sizes fit every implementation. Raises NoKernel when the one asked for is unknown or cannot run, or none can.
        """
        key = (device, wanted, dtype, gradient, *sizes.items())
        choice = self._choices.get(key)
        if choice is None:
            named = wanted or overrides().get(self.name)
            source = f" ({VARIABLE})" if named and not wanted else ""
            choice = self._choices[key] = self._choose(device, named, source, dtype, gradient, sizes)
        return choice

    def _choose(
        self, device: str, wanted: str | None, source: str, dtype: torch.dtype | None, gradient: bool, sizes: dict[str, int]
    ) -> Choice:
        refused: dict[str, str] = {}
        for entry in self.table:
            if wanted is None or entry.name == wanted:
                reason = entry.refuses(device, dtype, gradient, sizes)
                if not reason:
                    return Choice(entry.name, entry.load(), refused)
                refused[entry.name] = reason
        known = ", ".join(entry.name for entry in self.table)
        if wanted is not None and not refused:
            raise NoKernel(f"kernel {self.name}: none is named {wanted}{source}; there are {known}")
        asked = "" if wanted is None else f" named {wanted}{source}"
        reasons = "; ".join(f"{name} {reason}" if wanted is None else reason for name, reason in refused.items())
        raise NoKernel(f"kernel {self.name}: no implementation{asked} for {device}: {reasons}")


@cache
def overrides() -> dict[str, str]:
    """Implementations by operator, as MOWORLD_KERNELS names them; read once a process. Raises NoKernel where it cannot be read."""
    named: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
        operator, _, implementation = (part.strip() for part in item.partition("="))
        if operator not in OPERATORS or not implementation:
            raise NoKernel(f"{VARIABLE}: {item!r} is not OPERATOR=IMPLEMENTATION with an operator of {', '.join(OPERATORS)}")
        named[operator] = implementation
    return named


@contextmanager
def named(**implementations: str) -> Iterator[None]:
    """Calls inside take these implementations, by operator, as if MOWORLD_KERNELS named them: for benchmarks. For the whole process."""
    before = dict(overrides())
    try:
        overrides().update(implementations)
        _forget()
        yield
    finally:
        overrides().clear()
        overrides().update(before)
        _forget()


def _forget() -> None:
    for operator in operators():
        operator._choices.clear()


def operators() -> list[Operator]:
    """Every operator's table."""
    return [import_module(f"kernels.{name}").OPERATOR for name in OPERATORS]


def always() -> str:
    """A probe: runs everywhere."""
    return ""


def needs(package: str) -> Callable[[], str]:
    """A probe: whether a package is installed. It is not imported."""
    return lambda: "" if find_spec(package) else f"{package} is not installed"


def module(name: str, attribute: str | None = None) -> Callable[[], Any]:
    """Imports a module once it is chosen: the module itself, or what it holds under a name."""
    return lambda: import_module(name) if attribute is None else getattr(import_module(name), attribute)


def wants_gradient(*tensors: torch.Tensor) -> bool:
    """Whether autograd will ask for gradients of any of them."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def has_vnni() -> bool:
    """Whether this CPU multiplies int8 in hardware (AVX512-VNNI or AVX-VNNI), as Linux tells it."""
    return not cpu_flags().isdisjoint(("avx512_vnni", "avx_vnni"))
