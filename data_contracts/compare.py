"""Two versions of a contract: what changed, whether it breaks those who rely on it, and how far the version must rise for it.

A threshold that moves is breaking either way: tighter, and data that was accepted no longer is; looser, and readers meet what they were
promised not to.
"""

from dataclasses import dataclass

from data_contracts.load import Column, Contract, Rule

LEVELS = ("patch", "minor", "major")


@dataclass(frozen=True)
class Change:
    """One difference: the column it is about ("" for the whole contract), what it is, and the part of the version that it moves."""

    column: str
    what: str
    level: str  # patch, minor, major

    @property
    def breaking(self) -> bool:
        return self.level == "major"


def compare(old: Contract, new: Contract) -> list[Change]:
    """Every difference between two contracts of one name, breaking ones first."""
    changes = []
    if old.name != new.name:
        changes.append(Change("", f"name {old.name} became {new.name}", "major"))
    if old.max_rejected_share != new.max_rejected_share:
        what = f"share of a batch that may be rejected: {old.max_rejected_share:g} became {new.max_rejected_share:g}"
        changes.append(Change("", what, "major"))
    for part in ("purpose", "limitations"):
        if getattr(old, part) != getattr(new, part):
            changes.append(Change("", f"{part} was written anew", "patch"))
    before, after = ({column.name: column for column in contract.columns} for contract in (old, new))
    for name in [*before, *(name for name in after if name not in before)]:
        changes += _column_changes(before.get(name), after.get(name), name)
    before_rules, after_rules = ({rule.name: rule for rule in c.rules if rule.kind == "range"} for c in (old, new))
    for name in [*before_rules, *(name for name in after_rules if name not in before_rules)]:
        changes += _rule_changes(before_rules.get(name), after_rules.get(name))
    return sorted(changes, key=lambda change: -LEVELS.index(change.level))


def needed_level(changes: list[Change]) -> str | None:
    """The part of the version that the changes move, or None without any."""
    return max((change.level for change in changes), key=LEVELS.index, default=None)


def given_level(old: str, new: str) -> str | None:
    """The part of the version that rises from `old` to `new`; None where they are equal, "back" where it falls."""
    one, other = ([int(part) for part in version.split(".")] for version in (old, new))
    if one == other:
        return None
    if other < one:
        return "back"
    return next(level for level, a, b in zip(("major", "minor", "patch"), one, other, strict=True) if a != b)


def is_enough(needed: str | None, given: str | None) -> bool:
    """Whether the version rose by at least what the changes need."""
    if given == "back":
        return False
    return needed is None or (given is not None and LEVELS.index(given) >= LEVELS.index(needed))


def _column_changes(old: Column | None, new: Column | None, name: str) -> list[Change]:
    if old is None and new is not None:
        if new.required:
            return [Change(name, "required column added: older data lacks it", "major")]
        return [Change(name, "optional column added", "minor")]
    if new is None or old is None:
        return [Change(name, "column removed", "major")]
    changes = []
    if old.logical_type != new.logical_type:
        changes.append(Change(name, f"type {old.logical_type} became {new.logical_type}", "major"))
    for key, on, off in (("required", "became required", "is no longer required"), ("unique", "became unique", "is no longer unique")):
        if getattr(old, key) != getattr(new, key):
            changes.append(Change(name, on if getattr(new, key) else off, "major"))
    if old.description != new.description:
        changes.append(Change(name, "described anew", "patch"))
    return changes


def _rule_changes(old: Rule | None, new: Rule | None) -> list[Change]:
    if old is None and new is not None:
        return [Change(new.column, f"rule {new.name} added: {new.threshold}", "major")]
    if new is None or old is None:
        assert old is not None
        return [Change(old.column, f"rule {old.name} removed", "major")]
    if (old.column, old.threshold) == (new.column, new.threshold):
        return []
    moved = "" if old.column == new.column else f" from {old.column}"
    return [Change(new.column, f"rule {new.name}{moved}: {old.threshold} became {new.threshold}", "major")]
