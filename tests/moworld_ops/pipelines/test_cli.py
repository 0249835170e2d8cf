"""The command line: exit statuses, one-line errors, help, completion, and which packages each command imports."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from moworld.video import write_video
from moworld_ops.components.platform.steps import process_token
from moworld_ops.pipelines import profile
from moworld_ops.pipelines.catalog import PIPELINES
from moworld_ops.pipelines.cli import completion
from moworld_ops.pipelines.cli.app import EXTRAS, Root, missing_package
from moworld_ops.pipelines.cli.failures import path_error
from tests.moworld_ops.pipelines.command import Command

CODE = "from moworld_ops.pipelines.cli.app import main; main()"
HEAVY = {"torch", "numpy", "kfp", "mlflow", "dvc", "diffusers", "transformers", "great_expectations", "pandas", "pyarrow", "scipy", "cv2",
         "av", "kubernetes", "requests", "aiohttp", "pycolmap", "vizdoom", "tqdm"}  # fmt: skip


def moworld(tmp_path, *arguments, code=CODE, **environment):
    variables = {**os.environ, "MOWORLD_HOME": str(tmp_path), "COLUMNS": "200", **environment}
    return subprocess.run([sys.executable, "-c", code, *arguments], env=variables, capture_output=True, text=True, check=False)


def one_line(done) -> bool:
    return len(done.stderr.strip().splitlines()) == 1 and done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "lifecycle", "--profile", "pockett"), "did you mean 'pocket'"),
        (("run", "lifecycle", "--profile", "test", "--set", "distil.steps=3"), "did you mean 'distill'"),
        (("run", "lifecycles", "--profile", "test"), "one of data, pretrain"),
        (("run", "pretrain", "--profile", "test"), "cache_features"),
        (("run", "pretrain", "--profile", "test", "--set", "inputs.features=/no/such"), "/no/such"),
        (("run", "lifecycle", "--profile", "test", "--set", "inputs.base=models/nothing"), "--set inputs.base= --set codec.steps=40"),
        (("run", "lifecycle", "--profile", "test", "--set", "resources.disk_bytes=1e15"), "free some space"),
        (("run", "lifecycle", "--resume", "nothing"), "no such run"),
        (("run", "lifecycle", "--engine", "kubeflow"), "KFP_ENDPOINT"),
        (("runs", "show", "nothing"), "no such run"),
        (("rollout", "--model", "no/such", "--image", "x.png", "--out", "y.mp4"), "no such folder"),
        (("rollout", "--image", "x.png", "--out", "."), "--out: .: found a directory"),
        (("rollout", "--image", "x.png", "--out", f"{__file__}/y.mp4"), "parents are directories"),
        (("data", "collect", "--out", f"{__file__}/raw"), "parents are directories"),
        (("compile", "data", "--out", __file__), "found File exists, expected a path that can be written"),
        (("evaluate", "no/such", "--protocol", "speed"), "no such folder"),
        (("evaluate", "x", "--protocol", "sped"), "speed or camera or walk or vbench-i2v"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(tmp_path, monkeypatch, capsys, arguments, words):
    done = Command(tmp_path, monkeypatch, capsys, KFP_ENDPOINT="")(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and one_line(done)
    assert not list(tmp_path.glob("home/runs/*/run.json"))


@pytest.mark.parametrize("out", ["kept", "kept/..", "kept/../../" + "{name}"])
@pytest.mark.parametrize(
    "arguments",
    ["data collect", "data import features.jsonl --codec vae", "data docs", "model import weights", "model export model",
     "model export model --layout wan"],
)  # fmt: skip
def test_a_directory_with_other_files_is_never_replaced(tmp_path, monkeypatch, capsys, arguments, out):
    (tmp_path / "kept").mkdir()
    for name in ("notes.txt", "index.html", "config.json"):
        (tmp_path / "kept" / name).write_text("mine")
    done = Command(tmp_path, monkeypatch, capsys)(*arguments.split(), "--out", out.format(name=tmp_path.name))
    assert done.returncode == 2 and one_line(done) and "a directory with other files" in done.stderr, done.stderr
    assert [path.read_text() for path in (tmp_path / "kept").iterdir()] == ["mine"] * 3


def test_clips_are_collected_again_into_the_same_directory_until_it_holds_another_file(tmp_path, monkeypatch, capsys):
    wave = np.broadcast_to(128 + 100 * np.sin(np.arange(64) * np.pi / 32)[:, None], (64, 64, 3)).astype(np.uint8)
    write_video(tmp_path / "walk.mp4", [np.roll(wave, shift, 1) for shift in range(24)], 24)
    arguments = ("data", "collect", "--profile", "test", "--set", "data.game=null", "--set", "data.videos=walk.mp4", "--out")
    command = Command(tmp_path, monkeypatch, capsys)
    for _ in range(2):
        done = command(*arguments, "raw")
        assert done.returncode == 0 and "written to raw" in done.stdout, done.stderr
    (tmp_path / "raw/notes.txt").write_text("mine")
    assert command(*arguments, "raw").returncode == command(*arguments, ".").returncode == 2
    assert (tmp_path / "raw/notes.txt").read_text() == "mine" and (tmp_path / "walk.mp4").is_file()


def test_only_errors_that_name_a_path_are_one_line():
    error = PermissionError(13, "Permission denied", "a", None, "b")
    assert str(path_error(error)).startswith("b: found Permission denied, expected a path that can be written or read; ")
    assert path_error(FileNotFoundError("no path")) is None and path_error(OSError(5, "broken", "a")) is None
    assert path_error(ValueError("a")) is None


def test_completed_pipelines_are_those_that_exist():
    assert completion.pipelines("") == list(PIPELINES) and completion.profiles("") == profile.names()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("runs", "show", "nothing"), {"field": "nothing", "found": "no such run"}),
        (("plan", "--profile", "pockett"), {"file": "pockett", "fix": "did you mean 'pocket'?"}),
        (("evaluate", "no/such"), {"file": "no/such", "found": "no such folder"}),
        (("runs", "show", "--no-such-option"), {}),
        (("runs", "shw", "x"), {}),
        (("plan", "--devices", "many"), {}),
    ],
)
def test_an_error_is_json_on_stdout_under_json_and_stays_a_line_on_stderr(tmp_path, monkeypatch, capsys, arguments, parts):
    done = Command(tmp_path, monkeypatch, capsys, KFP_ENDPOINT="")(*arguments, "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == error["status"] == 2 and error["message"] and error["message"] in done.stderr
    assert parts.items() <= error.items()
    assert set(error) == {"message", "status", *(("file", "field", "found", "expected", "fix") if parts else ())}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_and_its_children_with_128_plus_its_number(tmp_path, number, status):
    code = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background of a shell ignores it
from moworld_ops.pipelines.cli import doctor
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
def wait(*_, **__):
    print(child.pid, flush=True)
    time.sleep(60)
doctor.doctor = lambda: wait()
{CODE}
"""
    command = subprocess.Popen([sys.executable, "-c", code, "doctor"], stdout=subprocess.PIPE, text=True, start_new_session=True)
    child = int(command.stdout.readline())
    os.kill(command.pid, number) if number == signal.SIGTERM else os.killpg(command.pid, number)
    assert command.wait(20) == status
    for _ in range(100):
        if not process_token(child):
            return
        time.sleep(0.05)
    raise AssertionError("the child outlived the command")


def test_wrong_use_is_exit_status_2(tmp_path):
    assert moworld(tmp_path, "run").returncode == 2
    done = moworld(tmp_path, "runn")
    assert done.returncode == 2 and "Did you mean 'run'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "allowed"),
    [
        ("--help", 0, set()),
        ("--version", 0, set()),
        ("run --help", 0, set()),
        ("play --help", 0, set()),
        ("runs list", 0, set()),
        ("run lifecycle --profile pockett", 2, set()),
        ("run lifecycle --profile test --set distil.steps=3", 2, set()),
        ("run lifecycle --profile test --set distill.steps=many", 2, set()),
        ("plan --profile pockett", 2, set()),
        ("evaluate x --protocol sped", 2, set()),
        ("doctor", None, {"torch", "numpy", "tqdm"}),
    ],
)
def test_a_command_imports_only_what_it_needs(tmp_path, arguments, status, allowed):
    code = f"""
import atexit, sys
atexit.register(lambda: print("HEAVY", *(name for name in {sorted(HEAVY)} if name in sys.modules), file=sys.stderr))
{CODE}
"""
    done = moworld(tmp_path, *arguments.split(), code=code, KFP_ENDPOINT="")
    assert status is None or done.returncode == status, done.stderr
    assert set(done.stderr.splitlines()[-1].split()[1:]) <= allowed


def test_the_version_is_that_of_the_installed_package(tmp_path, monkeypatch, capsys):
    assert Command(tmp_path, monkeypatch, capsys)("--version").stdout == f"moworld {version('moworld-operations')}\n"


def test_every_command_has_help_with_a_summary_and_an_example():
    def commands(group, path):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, (*path, name))
            else:
                yield (*path, name), command.help

    loaded = {name: entry.load(name) for name, entry in Root.entries.items()}
    groups = [name for name, command in loaded.items() if hasattr(command, "commands")]
    found = {(name,): command.help for name, command in loaded.items() if name not in groups}
    for name in groups:
        found |= dict(commands(loaded[name], (name,)))
    assert len(found) >= 28
    for path, text in found.items():
        summary, *_ = text.split("\n\n")
        assert f"Example: moworld {' '.join(path)}" in text, path
        assert summary.endswith(".") and "\n" not in summary and len(summary) <= 75, path
        assert summary[0].isupper() and summary.split()[0].rstrip("s") == summary.split()[0], path  # imperative
    for name, entry in Root.entries.items():
        assert name in groups or found[name,].split("\n\n")[0] == entry.summary, name


def test_help_groups_options_and_shows_the_example(tmp_path):
    text = moworld(tmp_path, "play", "--help").stdout
    places = [text.index(word) for word in ("Usage: moworld play", "Example:\n  moworld play", "Options:", "Model:", "Server:")]
    assert places == sorted(places)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_lists_commands_and_options_without_importing_them(tmp_path, shell):
    assert "_MOWORLD_COMPLETE" in moworld(tmp_path, "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout

    def complete(line: str) -> str:
        variables = {"_MOWORLD_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        words = line.split(" ")
        variables |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        done = moworld(tmp_path, code=CODE, **variables)
        assert not done.stderr, done.stderr
        return done.stdout

    assert "rollout" in complete("moworld ro") and "unschedule" in complete("moworld runs un") and "--profile" in complete("moworld run --pro")
    (tmp_path / "runs" / "lifecycle-pocket-20261130-101010").mkdir(parents=True)
    (tmp_path / "runs" / "lifecycle-pocket-20261130-101010" / "run.json").write_text("{")
    assert "wan22-a14b" in complete("moworld run lifecycle --profile w") and "lifecycle" in complete("moworld run li")
    for line in ("moworld runs show lif", "moworld run lifecycle --resume lif", "moworld runs logs "):
        assert "lifecycle-pocket-20261130-101010" in complete(line)
    assert "latest" in complete("moworld runs cancel la") and "all" in complete("moworld compile a")


def test_completion_is_installed_for_a_shell(tmp_path):
    done = moworld(tmp_path, "--install-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1", HOME=str(tmp_path))
    assert done.returncode == 0 and "completion installed" in done.stdout, done.stderr
    assert "_MOWORLD_COMPLETE" in (tmp_path / ".bash_completions" / "moworld.sh").read_text()


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("kfp", ("compile", "data"), "cluster"),
        ("kfp", ("run", "data", "--profile", "test"), "pipelines"),
        ("sqlalchemy", ("release", "list"), "registry"),
        ("open_data_contract_standard", ("data", "diff", "clips", "clips"), "data"),
    ],
)
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(tmp_path, module, arguments, extra):
    hide = f"""
import importlib.abc, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "{module}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
"""
    done = moworld(tmp_path, *arguments, code=hide + CODE)
    assert done.returncode == 2 and one_line(done), done.stderr
    assert f"pip install 'moworld-operations[{extra}]'" in done.stderr


def test_a_module_that_no_extra_installs_is_not_explained_away():
    assert missing_package("moworld.nothing", "run") == "" and missing_package("nothing", "") == ""
    assert "[cluster]" in missing_package("kfp.kubernetes", "run") and "[evaluate]" in missing_package("jinja2.ext", "evaluate")
    known = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) <= set(known)
    assert all("moworld-operations[" in missing_package(name, "play") for names in EXTRAS.values() for name in names)


def test_a_record_without_times_is_listed(tmp_path):
    folder = tmp_path / "runs" / "old"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"run": "old", "engine": "local", "status": "failed"}')
    assert json.loads(moworld(tmp_path, "runs", "list", "--json").stdout)[0]["status"] == "failed"
    done = moworld(tmp_path, "runs", "list")
    assert done.returncode == 0 and "old" in done.stdout and "1970" not in done.stdout  # no date is an empty cell
