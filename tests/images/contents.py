"""What an image holds, and what its entry points import: read from its Dockerfile, its requirements, and our sources."""

import ast
import importlib.metadata
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from components.platform.images import ROOT

OURS = ("moworld", "kernels", "data_contracts", "components", "pipelines")


def copy_of(name: str, to: Path) -> Path:
    """Our sources as the Dockerfile of an image copies them, in folder `to`."""
    text = (ROOT / "images" / name / "Dockerfile").read_text().replace("\\\n", " ")
    for line in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE):
        *sources, target = line.split()
        for source in (path for pattern in sources for path in ROOT.glob(pattern)):
            place = to / target / source.name if target.endswith(("/", ".")) else to / target
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, place)
    return to


def packages(requirements: Path) -> set[str]:
    """The distributions that pip installs for a file of requirements, as far as they are installed here: with all that they need in turn."""
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
    """A folder with these distributions and no other, as links to the installed ones."""
    owners, files = dict[str, int](), dict[str, tuple[Path, list[str]]]()
    for distribution in importlib.metadata.distributions():
        listed = [line.rsplit(",", 2)[0] for line in (distribution.read_text("RECORD") or "").splitlines()]
        files[canonicalize_name(distribution.name)] = Path(str(distribution.locate_file(""))), listed
        for top in {path.partition("/")[0] for path in listed}:
            owners[top] = owners.get(top, 0) + 1
    to.mkdir()
    for name in set(distributions) & set(files):
        root, listed = files[name]
        for path in {top if owners[top] == 1 else path for path in listed if (top := path.partition("/")[0]) not in ("..", "__pycache__")}:
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            (to / path).symlink_to(root / path)
    return to


def source_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def imports(source: Path, function: str = "") -> Iterator[str]:
    """The modules that a file imports, those inside functions too; those of one of its functions alone where it is named."""
    tree: ast.AST = ast.parse(source.read_text())
    if function:
        (tree,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if source_of(f"{node.module}.{alias.name}"))


def reached(entries: Iterable[str], cut: set[tuple[str, str]]) -> tuple[set[str], dict[str, set[str]]]:
    """(our modules, other packages with who imports them) that are reached from modules by imports.

    cut: (module, what it imports) that no run of these entries comes to; each of them must be met
    """
    todo, ours, others, unmet = list(entries), set[str](), dict[str, set[str]](), set(cut)
    while todo:
        module = todo.pop()
        if module in ours:
            continue
        source = source_of(module)
        assert source is not None, f"{module} is nowhere"
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
    assert not unmet, f"nobody imports {unmet}"
    return ours, others


@cache
def providers() -> dict[str, set[str]]:
    """Package to the distributions that provide it."""
    found = importlib.metadata.packages_distributions()
    return {package: {canonicalize_name(name) for name in names} for package, names in found.items()}
