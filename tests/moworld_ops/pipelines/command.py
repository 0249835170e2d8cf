"""The command line in this process: no second import of torch and kfp per call."""

import subprocess
import sys
from pathlib import Path

import pytest

from moworld_ops.pipelines.cli.app import main


class Command:
    """Calls `moworld ARGUMENTS` in a folder, with its own state folder; returns exit status, stdout and stderr."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **environment: str) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        self.environment = {"MOWORLD_HOME": str(folder / "home"), "COLUMNS": "200", **environment}

    def __call__(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        status = 0
        with self.monkeypatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["moworld", *map(str, arguments)])
            for key, value in {**self.environment, **environment}.items():
                patch.setenv(key, value)
            try:
                main()
            except SystemExit as error:
                status = int(error.code or 0)
        out, err = self.capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, status, out, err)
