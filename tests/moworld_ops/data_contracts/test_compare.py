"""Contract versions: which changes are breaking, and that a version step that is too small is rejected, by function and command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moworld_ops.data_contracts.compare import compare, given_level, is_enough, needed_level
from moworld_ops.data_contracts.load import Column, Rule, load_contract, parse_contract
from moworld_ops.pipelines.cli.app import app

OLD = load_contract("quality")
NEW_COLUMN = Column("colourfulness", "number", False, False, "How colourful.")


def changed(rules=None, columns=None, **values):
    made = replace(OLD, **values)
    if rules is not None:
        made = replace(made, rules=tuple(rules(list(made.rules))))
    return replace(made, columns=tuple(columns(list(made.columns)))) if columns else made


def with_rule(name: str, **values):
    return lambda rules: [replace(rule, **values) if rule.name == name else rule for rule in rules]


def with_column(name: str, **values):
    return lambda columns: [replace(column, **values) if column.name == name else column for column in columns]


@pytest.mark.parametrize(
    ("new", "level", "words"),
    [
        (changed(), None, None),
        (changed(purpose="Other words."), "patch", "purpose was rewritten"),
        (changed(columns=with_column("motion", description="Other.")), "patch", "description changed"),
        (changed(columns=lambda columns: [*columns, NEW_COLUMN]), "minor", "optional column added"),
        (changed(columns=lambda columns: [*columns, replace(NEW_COLUMN, required=True)]), "major", "required column added"),
        (changed(columns=lambda columns: columns[:-1]), "major", "column removed"),
        (changed(columns=with_column("motion", logical_type="string")), "major", "type number became string"),
        (changed(columns=with_column("motion", required=False)), "major", "is no longer required"),
        (changed(rules=with_rule("not-blurred", minimum=6.0)), "major", "rule not-blurred: 5.0 to inf became 6.0 to inf"),
        (changed(rules=with_rule("not-blurred", minimum=4.0)), "major", "5.0 to inf became 4.0 to inf"),
        (changed(rules=lambda rules: [r for r in rules if r.name != "one-shot"]), "major", "rule one-shot removed"),
        (changed(rules=lambda rules: [*rules, Rule("lively", "motion", "range", 1.0)]), "major", "rule lively added: 1.0 to inf"),
        (changed(max_rejected_share=0.4), "major", "0.5 became 0.4"),
    ],
)
def test_each_change_has_its_level(new, level, words):
    changes = compare(OLD, new)
    assert needed_level(changes) == level
    assert words is None or [words in change.what for change in changes] == [True]


@pytest.mark.parametrize(
    ("old", "new", "level"),
    [("1.2.3", "1.2.3", None), ("1.2.3", "1.2.4", "patch"), ("1.2.3", "1.3.0", "minor"), ("1.9.9", "2.0.0", "major"), ("2.0.0", "1.9.9", "back"),
     ("1.9.0", "1.10.0", "minor")],
)  # fmt: skip
def test_version_steps(old, new, level):
    assert given_level(old, new) == level


def test_a_step_is_enough_when_it_is_at_least_the_one_needed():
    levels = [None, "patch", "minor", "major"]
    for i, needed in enumerate(levels):
        assert [is_enough(needed, given) for given in levels] == [j >= i for j in range(4)]
        assert not is_enough(needed, "back")


def test_a_steward_changes_one_threshold_and_is_held_to_a_major_version(tmp_path: Path):
    source = Path("moworld_ops/data_contracts/quality.odcs.yaml").read_text()
    for version, status in (("2.1.0", 1), ("2.1.1", 1), ("2.2.0", 1), ("3.0.0", 0)):
        text = source.replace("minimum: 5.0", "minimum: 6.5").replace("version: 2.1.0", f"version: {version}")
        (tmp_path / "quality.odcs.yaml").write_text(text)
        assert parse_contract(text, "x").version == version
        called = CliRunner().invoke(app, ["data", "diff", "quality", str(tmp_path / "quality.odcs.yaml"), "--json"])
        result = json.loads(called.stdout)
        assert (called.exit_code, result["enough"], result["needed"]) == (status, status == 0, "major")
        assert result["changes"] == [
            {"column": "sharpness", "change": "rule not-blurred: 5.0 to inf became 6.5 to inf", "level": "major", "breaking": True}
        ]
    table = CliRunner().invoke(app, ["data", "diff", "quality", str(tmp_path / "quality.odcs.yaml")]).stdout
    assert "breaking" in table and "not-blurred" in table and "enough" in table


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("version: 2.1.0", "version: 2.1.0", "nothing changed, so no version step is needed; the version is the same: enough"),
        ("version: 2.1.0", "version: 1.0.0", "nothing changed, so no version step is needed; the version went back: REFUSED"),
        ("minimum: 5.0", "minimum: 6.5", "the changes need a major version step; the version is the same: REFUSED"),
    ],
)
def test_the_verdict_is_a_sentence(tmp_path: Path, old: str, new: str, line: str):
    source = Path("moworld_ops/data_contracts/quality.odcs.yaml").read_text()
    (tmp_path / "quality.odcs.yaml").write_text(source.replace(old, new))
    assert line in CliRunner().invoke(app, ["data", "diff", "quality", str(tmp_path / "quality.odcs.yaml")]).stdout


def test_a_contract_of_another_revision_and_one_that_is_not_there():
    called = CliRunner().invoke(app, ["data", "diff", "clips@HEAD", "clips", "--json"])
    assert called.exit_code in (0, 1) and json.loads(called.stdout)["new"] == load_contract("clips").title
    for wrong in ("clips@nowhere", "missing.yaml", "clip"):
        assert isinstance(CliRunner().invoke(app, ["data", "diff", wrong, "clips"]).exception, ValueError)
