"""Clones and environments that the tests of the installation make."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"


def clone(to: Path) -> Path:
    """Copies the tracked files, as they are in the working tree, to a new folder and returns it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)
    return to


def environment(**more: str) -> dict[str, str]:
    """Returns the variables of this process without what points it at this checkout."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MOWORLD_HOME")}
    return {**kept, **more}


def call(*command: str | Path, cwd: Path, status: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a command and returns it; fails with its output if its exit status is not `status`."""
    arguments = [str(part) for part in command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # no pipes: an orphan that holds one would block
        ended = subprocess.run(arguments, cwd=cwd, env=environment(**more), stdout=out, stderr=err, timeout=600, check=False)
        out.seek(0), err.seek(0)
        done = subprocess.CompletedProcess(arguments, ended.returncode, out.read(), err.read())
    assert done.returncode == status, f"{' '.join(arguments)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done
