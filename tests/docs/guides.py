"""Reads the worked sessions of docs/guides and runs them in one shell, as a reader would paste them.

A session is made of the fenced ```console blocks of a page. A line `$ command` is executed; the lines below it, up to the next command, are the
expected output, in which `...` matches any text, a line of its own any number of lines. A command must exit with status 0 unless the next command is `echo $?`.
A block whose fence names a file, such as ```python walk.py, is that file.
"""

import re
import subprocess
from collections.abc import Mapping, Sequence
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import NamedTuple

MARK = "--- end of command, status "


class Command(NamedTuple):
    """line: where it is in the page; text: what the shell gets; expected: the lines below it, "" where the page shows none."""

    line: int
    text: str
    expected: str


class Result(NamedTuple):
    status: int
    output: str


def read_session(page: str) -> list[Command]:
    """Returns the commands of a page, in order. Raises ValueError for output that no command precedes."""
    commands: list[Command] = []
    for block in re.finditer(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", page, flags=re.M | re.S):
        language, file, body = block.groups()
        line = page.count("\n", 0, block.start()) + 1
        if file:
            commands.append(Command(line, f"cat > {file} <<'END-OF-FILE'\n{body}END-OF-FILE", ""))
        elif language == "console":
            shown = re.split(r"^\$ ", body, flags=re.M)
            if shown[0]:
                raise ValueError(f"line {line + 1}: output without a command before it")
            for part in shown[1:]:
                line += 1
                text, _, expected = part.partition("\n")
                commands.append(Command(line, text, expected))
                line += expected.count("\n")
    return commands


def run_session(commands: Sequence[Command], folder: Path, environment: Mapping[str, str]) -> list[Result]:
    """Runs the commands in one bash, so that variables and background jobs last; returns status and output (stderr included) of each.

    A command sees the status of the one before it in `$?`. The shell ends at the last command, and its background jobs with it.
    """
    script = ["trap 'kill $(jobs -p) 2>/dev/null; true' EXIT"]
    for command in commands:
        script += [command.text, f'status=$?; printf "\\n{MARK}%s\\n" $status; (exit $status)']
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    parts = re.split(rf"\n?{re.escape(MARK)}(\d+)\n", done.stdout)
    return [Result(int(status), output) for output, status in zip(parts[::2], parts[1::2], strict=False)]


def differences(commands: Sequence[Command], results: Sequence[Result]) -> list[str]:
    """Returns one message for each command whose status or output is not what its page shows; [] where all agree."""
    checker, options, found = OutputChecker(), ELLIPSIS | NORMALIZE_WHITESPACE, []
    if len(results) != len(commands):
        found.append(f"the shell ended after {len(results)} of {len(commands)} commands")
    for index, (command, result) in enumerate(zip(commands, results, strict=False)):
        may_fail = index + 1 < len(commands) and commands[index + 1].text == "echo $?"
        if result.status and not may_fail:
            found.append(f"line {command.line}: $ {command.text}\nexit status {result.status}\n{result.output}")
        elif command.expected and not checker.check_output(_loose(command.expected), result.output.strip("\n") + "\n", options):
            found.append(f"line {command.line}: $ {command.text}\nexpected:\n{command.expected}\nfound:\n{result.output}")
    return found


def _loose(expected: str) -> str:
    """Joins lines of `...` to their neighbours, so that they also match no line at all."""
    return re.sub(r"^\.\.\.\n(?=.)", "...", re.sub(r"\n *\.\.\.(?=\n)", "...", expected))
