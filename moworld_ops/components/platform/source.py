"""Locates the source code: a clone of the repository, or an installed wheel. Only maintenance commands need the clone."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from moworld.errors import InputError

ROOT = Path(__file__).parents[3]  # the clone, or site-packages
REPOSITORY = "https://github.com/moworld-operations/python"


def clone_root(purpose: str) -> Path:
    """Returns the root of the clone that this code runs from. Raises InputError outside a clone.

    purpose: what needs the clone, for the message
    """
    if not (ROOT / "images" / "docker-bake.hcl").is_file():
        raise InputError(purpose, "", f"code installed in {ROOT}", "a clone of the repository", f"git clone {REPOSITORY}, and run it there")
    return ROOT


def code_revision() -> str:
    """Returns the commit of the git checkout, with "+changes" after edits; without a checkout the installed version, or ""."""
    if not (ROOT / ".git").exists():  # git itself would find a repository further up, such as that of a user's virtual environment
        try:
            return version("moworld-operations")
        except PackageNotFoundError:
            return ""
    head, changes = (_git("rev-parse", "HEAD"), _git("status", "--porcelain", "-uno"))
    return head + ("+changes" if changes else "") if head else ""


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
