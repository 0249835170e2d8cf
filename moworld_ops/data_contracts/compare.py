"""Compares two versions of a contract: what changed, whether it is breaking, and which version step it requires.

A moved threshold is breaking in both directions: a tighter one rejects data that was accepted, a looser one gives readers values that
were excluded before.
"""

from dataclasses import dataclass

from moworld_ops.data_contracts.load import Column, Contract
from moworld_ops.data_contracts.rules import BatchRule, Rule

LEVELS = ("patch", "minor", "major")


@dataclass(frozen=True)
class Change:
    """One difference: the column ("" for the whole contract), a description, and the part of the version that it raises."""

    column: str
    what: str
    level: str  # patch, minor, major

    @property
    def breaking(self) -> bool:
        return self.level == "major"


def compare(old: Contract, new: Contract) -> list[Change]:
    """Returns every difference between two contracts of one name, breaking ones first."""
    changes = []
    if old.name != new.name:
        changes.append(Change("", f"name {old.name} became {new.name}", "major"))
    if old.max_rejected_share != new.max_rejected_share:
        what = f"share of a batch that may be rejected: {old.max_rejected_share:g} became {new.max_rejected_share:g}"
        changes.append(Change("", what, "major"))
    for part in ("purpose", "limitations"):
        if getattr(old, part) != getattr(new, part):
            changes.append(Change("", f"{part} was rewritten", "patch"))
    columns = [{column.name: column for column in contract.columns} for contract in (old, new)]
    rules = [_by_name(contract) for contract in (old, new)]
    for name in dict.fromkeys([*columns[0], *columns[1]]):
        changes += _column_changes(columns[0].get(name), columns[1].get(name), name)
    for name in dict.fromkeys([*rules[0], *rules[1]]):
        changes += _rule_changes(rules[0].get(name), rules[1].get(name))
    return sorted(changes, key=lambda change: -LEVELS.index(change.level))


def needed_level(changes: list[Change]) -> str | None:
    """Returns the part of the version that the changes raise, or None without changes."""
    return max((change.level for change in changes), key=LEVELS.index, default=None)


def given_level(old: str, new: str) -> str | None:
    """Returns the part of the version that rises from `old` to `new`; None if they are equal, "back" if it falls."""
    one, other = ([int(part) for part in version.split(".")] for version in (old, new))
    if one == other:
        return None
    if other < one:
        return "back"
    return next(level for level, a, b in zip(("major", "minor", "patch"), one, other, strict=True) if a != b)


def is_enough(needed: str | None, given: str | None) -> bool:
    """Returns whether the version rises by at least what the changes need."""
    if given == "back":
        return False
    return needed is None or (given is not None and LEVELS.index(given) >= LEVELS.index(needed))


def _by_name(contract: Contract) -> dict[str, Rule | BatchRule]:
    rules: list[Rule | BatchRule] = [*contract.rules, *contract.batch_rules]
    return {rule.name: rule for rule in rules}


def _column_changes(old: Column | None, new: Column | None, name: str) -> list[Change]:
    if old is None or new is None:
        if new is None:
            return [Change(name, "column removed", "major")]
        return [
            Change(name, "required column added: older data lacks it", "major")
            if new.required
            else Change(name, "optional column added", "minor")
        ]
    changes = []
    if old.logical_type != new.logical_type:
        changes.append(Change(name, f"type {old.logical_type} became {new.logical_type}", "major"))
    for key in ("required", "unique"):
        if getattr(old, key) != getattr(new, key):
            changes.append(Change(name, f"{'became' if getattr(new, key) else 'is no longer'} {key}", "major"))
    if old.description != new.description:
        changes.append(Change(name, "description changed", "patch"))
    return changes


def _rule_changes(old: Rule | BatchRule | None, new: Rule | BatchRule | None) -> list[Change]:
    """Returns the change of a rule; those of a column's type, presence and uniqueness follow from the column."""
    rule = new or old
    if rule is None or (isinstance(rule, Rule) and rule.name in (f"{rule.column}-{key}" for key in ("type", "required", "unique"))):
        return []
    if old is None or new is None:
        return [Change(rule.column, f"rule {rule.name} removed" if new is None else f"rule {rule.name} added: {rule.threshold}", "major")]
    if (old.column, old.threshold) == (new.column, new.threshold):
        return []
    moved = "" if old.column == new.column else f" from {old.column}"
    return [Change(new.column, f"rule {new.name}{moved}: {old.threshold} became {new.threshold}", "major")]
