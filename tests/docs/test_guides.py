"""Every guide in docs/guides is executed from a fresh copy of the repository, and its output is compared with what the page shows."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.guides import Command, Result, differences, read_session, run_session

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
USERS = {"mlops", "data-steward", "release-manager", "researcher", "evaluator", "player", "agent", "applications"}
SHARED = "moworld run lifecycle --profile test"  # minutes: run once, by the first guide that begins with it


def test_every_kind_of_user_has_a_guide():
    assert {path.stem for path in GUIDES} == USERS
    for path in GUIDES:
        assert len(read_session(path.read_text())) >= 3, path


def test_a_wrong_line_a_failing_command_and_a_lost_shell_are_found(tmp_path):
    page = "```console\n$ echo one two\none ...\n$ false\n$ echo $?\n1\n$ echo three\nfour\n$ false\n$ exit 3\n```\n```sh\n$ not run\n```\n"
    commands = read_session(page)
    found = differences(commands, run_session(commands, tmp_path, os.environ))
    assert [message.splitlines()[0] for message in found] == [
        "the shell ended after 5 of 6 commands", "line 7: $ echo three", "line 9: $ false",
    ]  # fmt: skip


def test_a_line_of_dots_matches_any_number_of_lines(tmp_path):
    page = "```console\n$ echo one\n...\none\n...\n$ printf 'a\\nb\\nc\\n'\na\n  ...\nc\n$ printf 'a\\nc\\n'\na\n...\nc\n```\n"
    commands = read_session(page)
    assert not differences(commands, run_session(commands, tmp_path, os.environ))


def test_a_block_with_a_file_name_is_that_file(tmp_path):
    commands = read_session("Save as `a.py`:\n\n```python a.py\nprint(6 * 7)\n```\n\n```console\n$ python a.py\n42\n```\n")
    assert not differences(commands, run_session(commands, tmp_path, os.environ))
    assert [command.line for command in commands] == [3, 8]


def clone(place: Path) -> Path:
    """Returns a git repository of one commit that holds the tracked files as they are in the working tree."""
    place.mkdir()
    for name in subprocess.check_output(["git", "-C", ROOT, "ls-files", "-z"], text=True).split("\0"):
        if name and (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    author = ["-c", "user.name=reader", "-c", "user.email=reader@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "as cloned"]):
        subprocess.run(["git", "-C", place, *command], check=True)
    return place


def environment(folder: Path, home: Path) -> dict[str, str]:
    """The tests' own interpreter and commands, on the code in `folder`, with state in `home`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shown = {"COLUMNS": "120", "TERM": "dumb", "PYTHONUNBUFFERED": "1"}  # as on a terminal: results and messages in their order
    return {**os.environ, **shown, "PATH": path, "PYTHONPATH": str(folder), "MOWORLD_HOME": str(home)}


@pytest.fixture(scope="session")
def lifecycle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The state folder and the output of the command that several guides begin with."""
    place = tmp_path_factory.mktemp("lifecycle")
    folder = clone(place / "clone")
    [result] = run_session([Command(0, SHARED, "")], folder, environment(folder, place / "home"))
    return place / "home", result


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_does_what_it_shows(guide, tmp_path, request):
    commands = read_session(guide.read_text())
    home, folder, results = tmp_path / "home", clone(tmp_path / "clone"), []
    if commands[0].text == SHARED:
        state, result = request.getfixturevalue("lifecycle")
        shutil.copytree(state, home)
        results.append(result)
    results += run_session(commands[len(results) :], folder, environment(folder, home))
    assert not (found := differences(commands, results)), "\n\n".join(found)
