"""Look at the cluster before anything expensive starts; refuse with every missing thing and its mend."""

from pathlib import Path
from typing import Any

from components.platform.preflight import Wanted, checks
from components.platform.steps import Refused
from moworld.files import atomic_folder, write_json


def preflight(out: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Write checks.json to the folder `out`: a row per check, as `components.platform.preflight.checks` gives them.

    Raises Refused when one of them does not pass; its line names them all.
    """
    rows = checks(Wanted(**settings))
    for row in rows:
        print(f"{'ok     ' if row['passed'] else 'MISSING'} {row['name']}: {row['found']}", flush=True)
    missing = [row for row in rows if not row["passed"]]
    if missing:
        words = "; ".join(f"{row['name']}: found {row['found']}, wanted {row['wanted']}; {row['mend']}" for row in missing)
        raise Refused(f"preflight: {len(missing)} of {len(rows)} checks fail: {words}", {"checks": rows})
    with atomic_folder(Path(out)) as target:
        write_json(target / "checks.json", rows)
    return {"checks": len(rows)}
