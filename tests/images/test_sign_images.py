"""Signing of the pushed images: which programs are called, with which digests. cosign and docker are scripts that write down their arguments."""

import importlib.util
import json
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "sign_images.py"


@pytest.fixture
def main():
    spec = importlib.util.spec_from_file_location("sign_images", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    """The file to which the programs write; docker answers with file `answer`."""
    (tmp_path / "bin").mkdir()
    for name in ("cosign", "docker"):
        program = tmp_path / "bin" / name
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" | sed "s#/[^ ]*/release#KEY#" >> {tmp_path}/log\n[ {name} = cosign ] || cat {tmp_path}/answer\n'
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path / "log"


def lock(tmp_path: Path, **published: bool) -> Path:
    path = tmp_path / "images.lock.json"
    entries = {name: {"repository": f"r.test/{name}", "digest": f"sha256:{name}", "published": state} for name, state in published.items()}
    path.write_text(json.dumps(entries))
    return path


def test_every_image_is_signed_by_its_digest_with_all_its_platforms(main, log, tmp_path):
    assert main(["sign", "signing.pem"], lock(tmp_path, data=True, launcher=True)) == 0
    assert log.read_text().splitlines() == [
        "cosign import-key-pair --key signing.pem --output-key-prefix KEY",
        "cosign sign --yes --recursive --tlog-upload=false --key KEY.key r.test/data@sha256:data",
        "cosign sign --yes --recursive --tlog-upload=false --key KEY.key r.test/launcher@sha256:launcher",
    ]
    log.unlink()
    assert main(["verify", "signing.pub"], lock(tmp_path, data=True)) == 0
    assert log.read_text() == "cosign verify --insecure-ignore-tlog=true --key signing.pub r.test/data@sha256:data\n"


def test_an_image_that_was_never_pushed_stops_all(main, log, tmp_path, capsys):
    for command in ("sign", "verify", "sbom"):
        assert main([command, "x"], lock(tmp_path, data=True, launcher=False)) == 2
        assert "launcher: never pushed" in capsys.readouterr().err
    assert not log.exists()
    assert main(["sign"], lock(tmp_path)) == 2 and "signing.pem" in capsys.readouterr().err


def test_sboms_are_saved_and_an_image_without_one_is_named(main, log, tmp_path, capsys):
    (tmp_path / "answer").write_text('{"linux/amd64": {"SPDX": {"spdxVersion": "SPDX-2.3"}}}')
    assert main(["sbom", str(tmp_path / "out")], lock(tmp_path, data=True)) == 0
    assert json.loads((tmp_path / "out" / "data.spdx.json").read_text())["linux/amd64"]["SPDX"]["spdxVersion"] == "SPDX-2.3"
    (tmp_path / "answer").write_text("{}")
    assert main(["sbom", str(tmp_path / "out")], lock(tmp_path, data=True)) == 2
    assert "r.test/data@sha256:data: no SBOM" in capsys.readouterr().err


def test_a_program_that_is_absent_is_said(main, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["verify", "signing.pub"], lock(tmp_path, data=True)) == 1 and "cosign" in capsys.readouterr().err
