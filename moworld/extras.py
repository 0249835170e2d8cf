"""Imports packages that are not in the base installation."""

from importlib import import_module
from types import ModuleType

from moworld.errors import InputError


def require(module: str, extra: str) -> ModuleType:
    """Returns the imported `module`; raises InputError with the pip command for `extra` if its package is not installed.

    An ImportError inside an installed package is not hidden: only the absence of `module` or of a parent package is translated.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise not_installed(error.name, extra) from None


def not_installed(package: str, extra: str) -> InputError:
    """Returns the error for a missing package; its fix is the command that installs `extra`."""
    fix = f"run: pip install 'moworld-operations[{extra}]' (in a clone: make .venv/all)"
    return InputError("installation", f"extra '{extra}'", f"no package {package}", "the package installed", fix)
