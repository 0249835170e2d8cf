"""Makes the import names of version 0.1 (`components`, `data_contracts`, `pipelines`, `kernels`) aliases of the present ones.

Only a clone's environment activates it (`make` writes a .pth file), so that scripts written for 0.1 keep working.
The wheel installs none of these names, and a distribution that owns one of them is found first.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

FORMER = {
    "components": "moworld_ops.components",
    "data_contracts": "moworld_ops.data_contracts",
    "pipelines": "moworld_ops.pipelines",
    "kernels": "moworld.kernels",
}


class FormerNames(MetaPathFinder, Loader):
    """Finds `components.x.y` as the module object of `moworld_ops.components.x.y`, so that classes are identical under both names."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        top, _, rest = fullname.partition(".")
        if top not in FORMER:
            return None
        if rest:  # a submodule: aliased only where its top-level package is
            aliased = sys.modules[top] is sys.modules.get(FORMER[top])
        else:
            owner = PathFinder.find_spec(fullname)
            aliased = owner is None or owner.loader is None  # no loader: a leftover folder without __init__.py
        return ModuleSpec(fullname, self) if aliased else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        top, dot, rest = spec.name.partition(".")
        return import_module(FORMER[top] + dot + rest)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: the module was executed under its present name."""


def activate() -> None:
    """Puts the finder in front of `sys.meta_path`, once: behind PathFinder it would not be asked for submodules."""
    if not any(isinstance(finder, FormerNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, FormerNames())
