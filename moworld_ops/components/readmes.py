"""Writes the README of each component folder from the docstrings and the signature in its component.py.

`python -m moworld_ops.components.readmes` (`make readmes`). The module docstring has a description and the fields below; the
function's docstring has one line and the arguments.
"""

import ast
import re
import sys
from pathlib import Path

from moworld.errors import InputError
from moworld.files import atomic_write
from moworld_ops.components.platform.source import clone_root

FOLDER = Path(__file__).parent
FIELDS = ("Resources", "Interruption", "Failure modes", "Stability", "Last verified")
REQUIRED = {"Resources", "Failure modes", "Stability", "Last verified"}
STABILITY = ("alpha", "beta", "stable")


def component_folders() -> list[Path]:
    """Returns the folders with a component.py, sorted by name."""
    return sorted(path.parent for path in FOLDER.glob("*/component.py"))


def readme(folder: Path) -> str:
    """Returns the README of a component. Raises InputError for a missing docstring, field or argument description."""
    path = folder / "component.py"
    module = ast.parse(path.read_text(encoding="utf-8"))
    function = next(node for node in module.body if isinstance(node, ast.FunctionDef))
    description, fields = _fields(path, ast.get_docstring(module) or "")
    summary, _, described = (ast.get_docstring(function) or "").partition("\n\nArgs:\n")
    meanings = dict(re.findall(r"^ +(\w+): (.+)$", described, re.MULTILINE))
    defaults = [None] * (len(function.args.args) - len(function.args.defaults)) + list(function.args.defaults)
    rows = []
    for argument, default in zip(function.args.args, defaults, strict=True):
        if argument.arg not in meanings:
            raise InputError(path, argument.arg, "no description", "a line under Args", "describe the argument")
        artifact = re.fullmatch(r"dsl\.(Input|Output)\[((?:list\[)?)dsl\.(\w+)\]+", ast.unparse(argument.annotation or argument))
        kind, type_name = (artifact[1].lower(), f"list of {artifact[3]}" if artifact[2] else artifact[3]) if artifact else ("parameter", "str")
        optional = "" if default is None else ", optional"
        rows.append(f"| `{argument.arg}` | {kind}{optional} | {type_name} | {meanings[argument.arg]} |")
    lines = [
        "<!-- Written by 'make readmes' from component.py. -->",
        f"# {function.name}",
        "",
        summary,
        "",
        *([description, ""] if description else []),
        "| argument | kind | type | meaning |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        *(f"- **{name}:** {fields[name]}" for name in FIELDS if name in fields),
    ]
    return "\n".join(lines) + "\n"


def _fields(path: Path, docstring: str) -> tuple[str, dict[str, str]]:
    """Returns the description after the first line, and the fields, of a module docstring."""
    parts = re.split(rf"^({'|'.join(FIELDS)}): ", docstring, flags=re.MULTILINE)
    fields = {name: " ".join(text.split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    missing = sorted(REQUIRED - fields.keys())
    if missing or fields["Stability"] not in STABILITY or not re.fullmatch(r"\d{4}-\d\d-\d\d", fields["Last verified"]):
        expected = f"fields {', '.join(sorted(REQUIRED))}; stability {', '.join(STABILITY)}; a date such as 2026-11-28"
        raise InputError(path, "docstring", f"without {', '.join(missing)}" if missing else str(fields), expected, "complete the docstring")
    return parts[0].partition("\n")[2].strip(), fields


def main() -> int:
    """Writes all READMEs."""
    try:
        clone_root("moworld_ops.components.readmes")
        for folder in component_folders():
            with atomic_write(folder / "README.md", "w") as stream:
                stream.write(readme(folder))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
