"""Contents of an image and the imports of its entry points: read from its Dockerfile, its requirements, and our sources."""

import ast
import importlib.metadata
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from moworld_ops.components.platform.source import ROOT

OURS = ("moworld", "moworld_ops")


def copy_of(name: str, to: Path) -> Path:
    """Copies our sources to folder `to` as the Dockerfile of an image does; returns `to`."""
    text = (ROOT / "images" / name / "Dockerfile").read_text().replace("\\\n", " ")
    for line in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE):
        *sources, target = line.split()
        target = target.lstrip("/")
        for source in (path for pattern in sources for path in ROOT.glob(pattern)):
            place = to / target / source.name if target.endswith(("/", ".")) else to / target
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, place)
    return to


def packages(requirements: Path) -> set[str]:
    """Returns the distributions that pip installs for a file of requirements, with their dependencies as far as these are installed here."""
    todo = [Requirement(line) for line in requirements.read_text().splitlines() if line]
    seen: dict[str, set[str]] = {}
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        known = seen.get(name)
        if known is not None and wanted.extras <= known:
            continue
        seen[name] = (known or set()) | wanted.extras
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *seen[name])):
                todo.append(need)
    return set(seen)


def site(distributions: Iterable[str], to: Path) -> Path:
    """Returns a folder with these distributions and no others, as links to the installed ones.

    Two distributions may install the same file (docstring-parser and its fork): their folder is then linked as a whole.
    """
    owners, files = Counter[str](), dict[str, tuple[Path, list[str]]]()
    shared, seen = set[str](), set[str]()
    for distribution in importlib.metadata.distributions():
        listed = [line.rsplit(",", 2)[0] for line in (distribution.read_text("RECORD") or "").splitlines()]
        files[canonicalize_name(distribution.name)] = Path(str(distribution.locate_file(""))), listed
        owners.update({path.partition("/")[0] for path in listed})
        shared |= {path.partition("/")[0] for path in seen & set(listed)}
        seen |= set(listed)
    to.mkdir()
    for name in set(distributions) & set(files):
        root, listed = files[name]
        for path in listed:
            top = path.partition("/")[0]
            place = to / (top if owners[top] == 1 or top in shared else path)
            if top not in ("..", "__pycache__") and not place.is_symlink():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(root / place.relative_to(to))
    return to


def source_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def imports(source: Path, function: str = "") -> Iterator[str]:
    """Yields the modules that a file imports, also inside functions; only those of `function` if it is named.

    A call of moworld.extras.require counts as an import.
    """
    tree: ast.AST = ast.parse(source.read_text())
    if function:
        (tree,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if source_of(f"{node.module}.{alias.name}"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
            yield ast.literal_eval(node.args[0])


def reached(entries: Iterable[str], cut: set[tuple[str, str]]) -> tuple[set[str], dict[str, set[str]]]:
    """Returns (our modules, other packages with their importers) that modules reach by imports.

    cut: (module, its import) that no run of these entries executes; each of them must occur
    """
    todo, ours, others, unmet = list(entries), set[str](), dict[str, set[str]](), set(cut)
    while todo:
        module = todo.pop()
        if module in ours:
            continue
        source = source_of(module)
        assert source is not None, f"{module} does not exist"
        ours.add(module)
        todo += [module.rsplit(".", count)[0] for count in range(1, module.count(".") + 1)]
        for name in imports(source):
            top = name.partition(".")[0]
            if (module, name) in cut:
                unmet.discard((module, name))
            elif top in OURS:
                todo.append(name)
            elif top not in sys.stdlib_module_names:
                others.setdefault(top, set()).add(module)
    assert not unmet, f"unused cuts: {unmet}"
    return ours, others


@cache
def providers() -> dict[str, set[str]]:
    """Returns package to the distributions that provide it."""
    found = importlib.metadata.packages_distributions()
    return {package: {canonicalize_name(name) for name in names} for package, names in found.items()}
