"""Door `moworld plan`: devices, memory, time and cost of each stage."""

from typing import Annotated

import typer

from pipelines.cli.output import Json, out, print_json, print_table


def plan(
    profile: Annotated[str, typer.Option(help="A profile by name, or the path of one.")] = "pocket",
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, e.g. curriculum.4.parallel.ring=4. Repeatable.")] = None,
    json: Json = False,
) -> None:
    """Devices, memory per device, step time, days and cost of each stage of the curriculum, by arithmetic.

    Example: moworld plan --profile wan22-a14b --set resources.pools.high-noise.nodes=8

    Exit status 1 where a stage does not fit into its devices' memory.
    """
    from pipelines import profile as profiles
    from pipelines.plan import ASSUMPTIONS, plan_profile

    name, settings = profiles.load(profile, set_)
    rows = plan_profile(settings)
    if json:
        print_json({"profile": name, "stages": rows, "assumptions": ASSUMPTIONS})
    else:
        columns = ("stage", "frames", "pool", "devices", "ulysses x ring", "tokens (per device)", "memory, GB: state + gathered + step",
                   "of", "step, s: compute | exchange", "days", "device hours", "cost")  # fmt: skip
        print_table(
            f"training plan of profile {name}, {rows[0]['parameters'] / 1e9:.3f} B parameters an expert", columns, [_cells(r) for r in rows]
        )
        pools = {row["pool"]: row for row in rows}
        for pool in pools:
            mine = [row for row in rows if row["pool"] == pool]
            out.print(f"{pool}: {sum(r['days'] for r in mine):.2f} days, cost {sum(r['cost'] for r in mine):,.0f}")
        out.print("assumptions:")
        for line in ASSUMPTIONS:
            out.print(f"- {line}", soft_wrap=True)
        out.print("- peak, utilization, links and prices of devices stand in the profile (resources)", soft_wrap=True)
    raise typer.Exit(0 if all(row["fits"] for row in rows) else 1)


def _cells(row: dict[str, float]) -> tuple[object, ...]:
    gigabytes = [row[f"{part}_bytes"] / 1e9 for part in ("state", "gathered", "step")]
    memory = f"{row['total_bytes'] / 1e9:.2f}: {' + '.join(f'{value:.2f}' for value in gigabytes)}"
    limit = f"{row['device_bytes'] / 1e9:.0f}{'' if row['fits'] else ' DOES NOT FIT'}"
    seconds = f"{row['step_seconds']:.1f}: {row['compute_seconds']:.1f} | {row['communication_seconds']:.1f}"
    shared = f"{row['tokens']:,} ({row['tokens_per_device']:,})"
    hours = f"{row['days'] * 24 * row['devices']:,.0f}" if row["days"] > 0.1 else f"{row['days'] * 24 * row['devices']:.3f}"
    days = f"{row['days']:.2f}" if row["days"] > 0.1 else f"{row['days'] * 86400:.0f} s"
    return (row["stage"], row["frames"], row["pool"], row["devices"], f"{row['ulysses']} x {row['ring']}", shared, memory, limit, seconds, days,
            hours, f"{row['cost']:,.0f}")  # fmt: skip
