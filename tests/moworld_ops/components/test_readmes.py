"""The READMEs of the component folders: generated, complete, up to date."""

import pytest

from moworld.errors import InputError
from moworld_ops.components.readmes import component_folders, readme

FOLDERS = component_folders()


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_a_readme_is_what_docstring_and_signature_give(folder):
    assert (folder / "README.md").read_text() == readme(folder), "run 'make readmes'"


def test_a_readme_has_every_argument_with_its_type_the_stability_and_the_date():
    (folder,) = [folder for folder in FOLDERS if folder.name == "train_curriculum"]
    text = readme(folder)
    assert "| `features` | input | Dataset | feature shards |" in text and "| `model` | output | Model |" in text
    assert "| `previous` | input, optional | Model |" in text and "| `seed` | parameter | str |" in text
    assert "**Stability:** beta" in text and "**Last verified:** 2026-" in text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Stability: beta\n", "", "found without Stability"),
        ("Stability: beta\n", "Stability: soon\n", "soon"),
        ("Last verified: 2026", "Last verified: in 2026", "a date"),
        ("        seed: seed of the recorded episodes\n", "", "seed: found no description"),
    ],
)
def test_an_incomplete_docstring_is_one_line(tmp_path, old, new, words):
    (folder,) = [folder for folder in FOLDERS if folder.name == "collect"]
    text = (folder / "component.py").read_text()
    assert old in text
    (tmp_path / "component.py").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=words):
        readme(tmp_path)
