"""Checks the cluster before anything expensive starts."""

from typing import Any

from moworld.files import atomic_folder, write_json
from moworld_ops.components.platform.preflight import Requirements, checks
from moworld_ops.components.platform.steps import Refused


def preflight(out: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Writes checks.json to the folder `out`: the rows of `moworld_ops.components.platform.preflight.checks`.

    Raises Refused if a check fails; its line lists all failed checks with their fixes.
    """
    rows = checks(Requirements(**settings))
    for row in rows:
        print(f"{'ok     ' if row['passed'] else 'MISSING'} {row['name']}: {row['found']}", flush=True)
    failed = [row for row in rows if not row["passed"]]
    if failed:
        lines = "; ".join(f"{row['name']}: found {row['found']}, expected {row['wanted']}; {row['mend']}" for row in failed)
        raise Refused(f"preflight: {len(failed)} of {len(rows)} checks failed: {lines}", {"checks": rows})
    with atomic_folder(out) as target:
        write_json(target / "checks.json", rows)
    return {"checks": len(rows)}
