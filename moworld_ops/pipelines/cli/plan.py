"""CLI command `plan`: devices, memory, time and cost, of each training stage or of serving."""

from typing import Annotated, Any

import typer

from moworld.errors import InputError
from moworld_ops.pipelines.cli import completion
from moworld_ops.pipelines.cli.layout import Json, Overrides, option
from moworld_ops.pipelines.cli.output import bytes_text, note, print_json, print_table, track, working

STAGES = ("stage", "frames", "pool", "devices", "memory, GB", "step, s", "days", "cost")
DEVICE = ("stage", "pool", "mesh", "tokens", "state", "gathered", "step", "compute", "exchange")
PLACEMENTS = ("devices", "weights", "mesh", "experts", "working", "decoder", "fits", "frames/s")
CHUNK = ("devices", "weights", "denoise", "exchange", "decode", "read", "bound by")
KINDS = ("parameters", "gradients", "optimizer", "gathered", "activations")
MEASURED = ("phase", "devices", *KINDS, "total", "fits", "placing")
FROM_PROFILE = "peak, utilization, links and prices of devices are those of the profile (resources)"


def plan(
    profile: Annotated[str, option("Name of a profile, or a .yaml file.", autocompletion=completion.profiles)] = "pocket",
    overrides: Overrides = None,
    serve: Annotated[bool, option("Plan serving instead of training.", "--serve", panel="Serving")] = False,
    devices: Annotated[int, option("Maximum number of devices.", min=1, max=1024, panel="Serving")] = 8,
    dry_run: Annotated[bool, option("Execute each phase on fake tensors and count its memory.", "--dry-run", panel="Dry run")] = False,
    phase: Annotated[list[str] | None, option("Run this phase only; may be repeated.", "--phase", panel="Dry run")] = None,
    data: Annotated[str, option("Plan the data steps for so much footage, as in 10000h.", "--data", metavar="AMOUNT", panel="Data")] = "",
    rates: Annotated[list[str] | None, option("Change a rate of the plan; may be repeated.", "--rate", metavar="NAME=VALUE", panel="Data")] = None,
    json: Json = False,
) -> None:
    """Estimate devices, memory, time and cost of training or serving.

    Example: moworld plan --profile wan22-a14b --set curriculum.4.steps=2000

    Example: moworld plan --profile wan22-a14b --dry-run --phase stage-5 --phase distill-student

    Example: moworld plan --data 10000h --profile wan22-a14b --rate kept=0.3

    Exit status 1 if a stage, or every placement for serving, exceeds the memory of its devices. A dry run also reserves a tenth of it.
    """
    if data and (serve or dry_run):
        raise InputError("plan", "--data", "--data with --serve or --dry-run", "one of them", "plan the data steps alone")
    if serve and dry_run:
        raise InputError("plan", "--serve", "--serve with --dry-run", "one of the two", "a dry run includes the phase serve")
    from moworld_ops.pipelines import profile as profiles

    name, settings = profiles.load(profile, overrides, check_ranks=dry_run)
    if data:
        _plan_data(name, settings, data, rates or [], json)
        return
    from moworld_ops.pipelines.plan import ASSUMPTIONS, plan_profile

    if serve:
        raise typer.Exit(_plan_serving(name, settings, devices, json))
    if dry_run:
        raise typer.Exit(_dry_run(name, settings, phase or [], json))
    with working(f"planning {name}"):
        rows = plan_profile(settings)
    for row in rows:
        if row["ring"] != row["ring_of_profile"]:
            share = f"a ring of {row['ring']} instead of {row['ring_of_profile']}"
            note(f"stage {row['stage']}, {row['pool']}: {row['devices']} devices share batch {row['batch']} over {share}; a run needs it in the profile")
    if json:
        print_json({"profile": name, "stages": rows, "assumptions": ASSUMPTIONS})
    else:
        title = f"training plan of profile {name}, {rows[0]['parameters'] / 1e9:.3f} B parameters per expert"
        print_table(title, STAGES, [_stage_row(row) for row in rows])
        title = "per device: mesh (heads x ring), tokens, memory in GB, seconds per step"
        print_table(title, DEVICE, [_device_row(row) for row in rows])
        for pool in dict.fromkeys(row["pool"] for row in rows):
            mine = [row for row in rows if row["pool"] == pool]
            print(f"{pool}: {sum(r['days'] for r in mine):.2f} days, cost {sum(r['cost'] for r in mine):,.0f}")
        _print_assumptions(ASSUMPTIONS)
    raise typer.Exit(0 if all(row["fits"] for row in rows) else 1)


def _plan_data(name: str, settings: Any, amount: str, given: list[str], json: bool) -> None:
    """Prints the plan of the data steps."""
    from moworld_ops.pipelines.data_plan import hours_of, plan_data

    changed = {}
    for one in given:
        key, _, value = one.partition("=")
        try:
            changed[key.strip()] = float(value)
        except ValueError:
            raise InputError("--rate", key, one, "NAME=NUMBER", "write --rate kept=0.3") from None
    found = plan_data(settings, hours_of(amount), changed)
    if json:
        print_json({"profile": name, **found})
        return
    rows = [[*(row[key] for key in ("stage", "pods")), *(f"{row[key]:,.4g}" for key in ("cpus", "hours", "cost")), row["from"]] for row in found["stages"]]
    print_table(f"data plan of profile {name}: {found['footage_hours']:,g} h of footage", ("stage", "pods", "CPUs of each", "hours", "cost", "rate"), rows)
    totals = found["totals"]
    store = ", ".join(f"{part} {bytes_text(totals[f'{part}_bytes'])}" for part in ("source", "clip", "feature"))
    print(f"{totals['clips']:,} clips, {totals['hours']:,.4g} h one stage after the other, cost {totals['cost']:,.0f}; store: {store}")
    print(f"{totals['requests']:,} requests for captions, {totals['tokens']:,} tokens")
    rows = [[rate["name"], f"{rate['value']:,.6g}", rate["unit"], rate["origin"]] for rate in found["rates"]]
    print_table("rates, which --rate NAME=VALUE changes", ("rate", "value", "unit", "from"), rows)


def _print_assumptions(lines: tuple[str, ...]) -> None:
    print("assumptions:")
    for line in (*lines, FROM_PROFILE):
        print(f"- {line}")


def _stage_row(row: dict[str, Any]) -> tuple[object, ...]:
    memory = f"{row['total_bytes'] / 1e9:.1f} of {row['device_bytes'] / 1e9:.0f}{'' if row['fits'] else ': DOES NOT FIT'}"
    days = f"{row['days']:.2f}" if row["days"] > 0.1 else f"{row['days'] * 86400:.0f} s"
    where = (row["stage"], row["frames"], row["pool"], row["devices"])
    return *where, memory, f"{row['step_seconds']:.1f}", days, f"{row['cost']:,.0f}"


def _device_row(row: dict[str, Any]) -> tuple[object, ...]:
    memory = (f"{row[f'{part}_bytes'] / 1e9:.1f}" for part in ("state", "gathered", "step"))
    seconds = (f"{row[key]:.1f}" for key in ("compute_seconds", "communication_seconds"))
    return row["stage"], row["pool"], f"{row['ulysses']} x {row['ring']}", f"{row['tokens_per_device']:,}", *memory, *seconds


def _plan_serving(name: str, settings: Any, devices: int, json: bool) -> int:
    """Prints the placements and returns the exit status."""
    from moworld.inference.placement import ASSUMPTIONS
    from moworld_ops.pipelines.plan import plan_serving, published_times

    with working(f"planning {name}"):
        rows, published = plan_serving(settings, devices), published_times(settings)
    if json:
        print_json({"profile": name, "placements": rows, "published": published, "assumptions": ASSUMPTIONS})
    else:
        chunk = f"chunks of {rows[0]['chunk_frames']} frames, {rows[0]['device_bytes'] / 1e9:.1f} GB free per device"
        print_table(f"serving plan of profile {name}: {chunk}", PLACEMENTS, [_placement(row) for row in rows])
        print_table("seconds per chunk", CHUNK, [_chunk_row(row) for row in rows])
        print("mesh: heads x ring; experts, working, decoder: GB; experts and working memory are those of an expert device")
        for row in rows[:2]:
            fits = "fit together" if row["co_resident"] else "do not fit together"
            print(f"{row['precision']}: both experts and the decoder {fits} on one device")
        print("with more than one device the last one holds the decoder; the others hold both experts and share the tokens of each chunk")
        if published is not None:
            _print_published(published)
        _print_assumptions(ASSUMPTIONS)
    return 0 if any(row["fits"] for row in rows) else 1


def _print_published(found: dict[str, Any]) -> None:
    keys = ("cards", "published_seconds", "published_speedup", "planned_seconds", "ratio")
    columns = ("cards", "published, s", "speedup", "this formula, s", "planned / published")
    print_table(f"beside a published table: {found['work']}", columns, [[f"{row[key]:.4g}" for key in keys] for row in found["rows"]])
    fastest = found["rows"][-1]
    print(
        f"utilization {found['utilization']:.2f} is fitted to one card; the placements above use the profile's. {fastest['cards']} cards cannot"
        f" be {fastest['published_speedup']:.1f} times\nas fast as one by sharing its work: the rows of several cards fit the published"
        f" {found['cached_seconds']:.1f} s of one card with a cache"
    )


def _placement(row: dict[str, Any]) -> tuple[object, ...]:
    memory = (f"{row[key] / 1e9:.1f}" for key in ("experts_bytes", "denoising_bytes", "decoder_bytes"))
    fits = "yes" if row["fits"] and (row["devices"] > 1 or row["co_resident"]) else "in turn" if row["fits"] else "NO"
    return row["devices"], row["precision"], f"{row['ulysses']} x {row['ring']}", *memory, fits, f"{row['frames_per_second']:.2g}"


def _chunk_row(row: dict[str, Any]) -> tuple[object, ...]:
    seconds = (f"{row[key]:.3g}" for key in ("compute_seconds", "exchange_seconds", "decode_seconds", "read_seconds"))
    return row["devices"], row["precision"], *seconds, row["bound_by"]


def _dry_run(name: str, settings: Any, chosen: list[str], json: bool) -> int:
    """Executes the phases, prints their peaks and returns the exit status."""
    from moworld_ops.pipelines.dry_run import ASSUMPTIONS, dry_run, phases

    rows = list(track(dry_run(settings, chosen), f"dry run of {name}", total=len(chosen or phases(settings))))
    if json:
        print_json({"profile": name, "phases": rows, "assumptions": ASSUMPTIONS})
    else:
        print_table(f"dry run of profile {name}: peak of one device, GB; measured / planned", MEASURED, [_peak(row) for row in rows])
        _print_assumptions(ASSUMPTIONS)
    return 0 if all(row["fits"] for row in rows) else 1


def _peak(row: dict[str, Any]) -> tuple[object, ...]:
    planned = row["planned"] or {}
    cells = [f"{row['peak'][kind] / 1e9:.2f}" + (f" / {planned[kind] / 1e9:.2f}" if kind in planned else "") for kind in (*KINDS, "total")]
    return row["phase"], row["devices"], *cells, "yes" if row["fits"] else "NO", f"{row['placing_bytes'] / 1e9:.1f}"
