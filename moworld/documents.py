"""JSON and YAML from outside: parsed without executing anything, and refused in one line if they are too large, too deep or not valid."""

import json
from typing import Any

from moworld.errors import InputError

MAX_YAML_BYTES = 256 * 1024
MAX_YAML_NODES = 20_000  # with every alias written out: nine lines of aliases can stand for a billion values
MAX_YAML_DEPTH = 60
MAX_NUMBER_LETTERS = 100  # "1:1:1" with 100,000 parts is one integer, which takes seconds to compute and has too many digits to show


def parse_json(text: str | bytes, file: object, fix: str = "write it again with the step that wrote it") -> Any:
    """Returns the value of a JSON text. Raises InputError, which names `file`, if it is not JSON, too deep, or has a too long integer."""
    try:
        return json.loads(text)
    except RecursionError:
        found = "lists or objects inside each other, too deep to read"
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, or an integer of more digits than Python converts
        found = f"text that is not JSON ({error})"
    raise InputError(file, "", found, "a JSON file", fix)


def parse_json_object(text: str | bytes, file: object, fix: str = "write it again with the step that wrote it") -> dict[str, Any]:
    """Returns the object of a JSON text. Raises InputError, which names `file`, if `parse_json` does or it holds another type."""
    value = parse_json(text, file, fix)
    if not isinstance(value, dict):
        raise InputError(file, "", type(value).__name__, "a JSON object", fix)
    return value


def parse_yaml(text: str, file: object, expected: str) -> Any:
    """Returns the value of a YAML text; aliases and merge keys are allowed as far as what they stand for is small, and each is a copy.

    Raises InputError, which names `file`, if it is not YAML, has a key twice in one mapping, or is above the limits of this module.
    """
    import yaml

    fix = "correct its syntax"
    try:
        if len(text.encode(errors="surrogatepass")) > MAX_YAML_BYTES:
            found, fix = f"more than {MAX_YAML_BYTES // 1024} KiB", "shorten it"
        else:
            node = yaml.compose(text, yaml.SafeLoader)
            if node is not None and _count(node, {}, 0) > MAX_YAML_NODES:
                found, fix = f"aliases that stand for more than {MAX_YAML_NODES} values", "write out what is meant"
            elif repeated := _repeated_key(node):
                found, fix = repeated, "remove one of them"
            elif long := _long_number(node):
                found, fix = long, "shorten it"
            else:
                return _copied(yaml.safe_load(text))
    except RecursionError:
        found, fix = f"values inside each other, deeper than {MAX_YAML_DEPTH} levels", "flatten it"
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: a date or a number that does not exist
        found = f"text that is not YAML ({str(error)[:300]})"
    except (LookupError, AttributeError, TypeError):  # PyYAML's, of a tag such as !!bool or !!timestamp before another value
        found, fix = "a tag (!!) that does not fit its value", "remove the tag"
    raise InputError(file, "", found, expected, fix)


def _repeated_key(node: Any) -> str:
    """Returns the first key that a mapping under a composed node has twice, with its line; "" without one.

    PyYAML keeps the last of them. A key may override one that a merge key (<<) brings in.
    """
    if node is None or isinstance(node.value, str):
        return ""
    if isinstance(node.value, list) and node.id == "mapping":
        seen = set[tuple[str, str]]()
        for key, _ in node.value:
            named = (key.tag, str(key.value))
            if named in seen:
                return f"key {key.value} a second time in line {key.start_mark.line + 1}"
            seen.add(named)
    return next((found for child in _children(node) if (found := _repeated_key(child))), "")


def _long_number(node: Any) -> str:
    """Returns the line of the first number under a composed node that is too long, or ""."""
    if node is None or isinstance(node.value, str):
        number = node is not None and node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        return f"a number of {len(node.value)} characters in line {node.start_mark.line + 1}" if number and len(node.value) > MAX_NUMBER_LETTERS else ""
    return next((found for child in _children(node) if (found := _long_number(child))), "")


def _children(node: Any) -> list[Any]:
    """Returns the keys and values, or the items, of a composed node; none of a scalar."""
    return [] if isinstance(node.value, str) else [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]


def _copied(value: Any) -> Any:
    """Returns lists and mappings as new ones, so that a change of one that an alias stands for does not change the others."""
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _count(node: Any, known: dict[int, int | None], depth: int) -> int:
    """Returns the number of nodes under a composed one, with aliases written out. Raises RecursionError for one that contains itself."""
    if depth > MAX_YAML_DEPTH:
        raise RecursionError
    if id(node) in known:
        if (found := known[id(node)]) is None:
            raise RecursionError
        return found
    known[id(node)] = None
    known[id(node)] = count = 1 + sum(_count(child, known, depth + 1) for child in _children(node))
    return count
