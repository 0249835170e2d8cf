"""Missing packages are reported with the command that installs them."""

import sys
from pathlib import Path

import pytest

from moworld.errors import InputError
from moworld.extras import require


def test_an_installed_module_is_returned():
    assert require("json.decoder", "text") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["absent_package", "absent_package.part", "json.absent"])
def test_a_missing_package_is_one_line_with_the_pip_command(module: str):
    with pytest.raises(InputError, match=r"pip install 'moworld-operations\[text\]'") as caught:
        require(module, "text")
    assert "\n" not in str(caught.value)


def test_a_hidden_package_counts_as_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(InputError, match="no package json"):
        require("json", "data")


def test_a_package_that_lacks_its_own_dependency_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken_package.py").write_text("import absent_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_dependency"):
        require("broken_package", "text")
