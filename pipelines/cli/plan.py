"""Door `moworld plan`: devices, memory, time and cost of each stage."""

from typing import Annotated, Any

import typer

from pipelines.cli.output import Json, out, print_json, print_table

WHOLE = ("stage", "frames", "pool", "devices", "memory, GB", "step, s", "days", "cost")
PARTS = ("stage", "pool", "mesh", "tokens", "state", "gathered", "step", "compute", "exchange")


def plan(
    profile: Annotated[str, typer.Option(help="A profile by name, or the path of one.")] = "pocket",
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, e.g. curriculum.4.parallel.ring=4. Repeatable.")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Plan serving: which device holds what, and how fast chunks come.")] = False,
    devices: Annotated[int, typer.Option(min=1, max=1024, help="With --serve: devices at most.")] = 8,
    json: Json = False,
) -> None:
    """Devices, memory per device, step time, days and cost of each stage of the curriculum, by arithmetic; or of serving.

    Example: moworld plan --profile wan22-a14b --set resources.pools.high-noise.nodes=8

    Exit status 1 where a stage, or every placement, does not fit into its devices' memory.
    """
    from pipelines import profile as profiles
    from pipelines.plan import ASSUMPTIONS, plan_profile

    name, settings = profiles.load(profile, set_)
    if serve:
        raise typer.Exit(_serving(name, settings, devices, json))
    rows = plan_profile(settings)
    if json:
        print_json({"profile": name, "stages": rows, "assumptions": ASSUMPTIONS})
    else:
        title = f"training plan of profile {name}, {rows[0]['parameters'] / 1e9:.3f} B parameters an expert"
        print_table(title, WHOLE, [_whole(row) for row in rows])
        print_table("on each device: tokens of its mesh (heads x ring), memory in GB, seconds a step", PARTS, [_parts(row) for row in rows])
        pools = {row["pool"]: row for row in rows}
        for pool in pools:
            mine = [row for row in rows if row["pool"] == pool]
            out.print(f"{pool}: {sum(r['days'] for r in mine):.2f} days, cost {sum(r['cost'] for r in mine):,.0f}")
        out.print("assumptions:")
        for line in ASSUMPTIONS:
            out.print(f"- {line}", soft_wrap=True)
        out.print("- peak, utilization, links and prices of devices stand in the profile (resources)", soft_wrap=True)
    raise typer.Exit(0 if all(row["fits"] for row in rows) else 1)


def _whole(row: dict[str, float]) -> tuple[object, ...]:
    memory = f"{row['total_bytes'] / 1e9:.1f} of {row['device_bytes'] / 1e9:.0f}{'' if row['fits'] else ': DOES NOT FIT'}"
    days = f"{row['days']:.2f}" if row["days"] > 0.1 else f"{row['days'] * 86400:.0f} s"
    where = (row["stage"], row["frames"], row["pool"], row["devices"])
    return *where, memory, f"{row['step_seconds']:.1f}", days, f"{row['cost']:,.0f}"


def _parts(row: dict[str, float]) -> tuple[object, ...]:
    memory = (f"{row[f'{part}_bytes'] / 1e9:.1f}" for part in ("state", "gathered", "step"))
    seconds = (f"{row[key]:.1f}" for key in ("compute_seconds", "communication_seconds"))
    return row["stage"], row["pool"], f"{row['ulysses']} x {row['ring']}", f"{row['tokens_per_device']:,}", *memory, *seconds


PLACES = ("devices", "weights", "mesh", "experts", "working", "decoder", "fits", "frames/s")
TIMES = ("devices", "weights", "denoise", "exchange", "decode", "read", "bound by")


def _serving(name: str, settings: Any, devices: int, json: bool) -> int:
    """Print the placements; the exit status."""
    from moworld.inference.placement import ASSUMPTIONS
    from pipelines.plan import plan_serving

    rows = plan_serving(settings, devices)
    if json:
        print_json({"profile": name, "placements": rows, "assumptions": ASSUMPTIONS})
    else:
        title = f"serving plan of profile {name}: chunks of {rows[0]['chunk_frames']} frames, {rows[0]['device_bytes'] / 1e9:.1f} GB free on a device"
        print_table(title, PLACES, [_placement(row) for row in rows])
        print_table("a chunk, in seconds", TIMES, [_times(row) for row in rows])
        out.print("mesh: heads x ring; experts, working, decoder: GB, of an expert device the first two", soft_wrap=True)
        for row in rows[:2]:
            said = "fit together" if row["co_resident"] else "do not fit together"
            out.print(f"{row['precision']}: both experts and the decoder {said} on one device", soft_wrap=True)
        out.print("with more than one, the last device holds the decoder, the others both experts and a share of each chunk's tokens")
        out.print("assumptions:")
        for line in (*ASSUMPTIONS, "peak, utilization and links of devices stand in the profile (resources)"):
            out.print(f"- {line}", soft_wrap=True)
    return 0 if any(row["fits"] for row in rows) else 1


def _placement(row: dict[str, Any]) -> tuple[object, ...]:
    memory = (f"{row[key] / 1e9:.1f}" for key in ("experts_bytes", "denoising_bytes", "decoder_bytes"))
    fits = "yes" if row["fits"] and (row["devices"] > 1 or row["co_resident"]) else "in turn" if row["fits"] else "NO"
    return row["devices"], row["precision"], f"{row['ulysses']} x {row['ring']}", *memory, fits, f"{row['frames_per_second']:.2g}"


def _times(row: dict[str, Any]) -> tuple[object, ...]:
    seconds = (f"{row[key]:.3g}" for key in ("compute_seconds", "exchange_seconds", "decode_seconds", "read_seconds"))
    return row["devices"], row["precision"], *seconds, row["bound_by"]
