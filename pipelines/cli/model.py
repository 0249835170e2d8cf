"""Door `moworld model`: published checkpoints in, out and looked at."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.output import Json, bytes_text, out, print_json

app = typer.Typer(help="Checkpoints: Wan2.2's, Diffusers' and the published MoWorld base.", no_args_is_help=True)
Source = Annotated[str, typer.Argument(help="A folder, a .safetensors file, or an fsspec URI of either.")]


@app.command("import")
def import_(
    source: Source,
    to: Annotated[Path, typer.Option("--out", help="Folder for the world model.")],
    profile: Annotated[str, typer.Option(help="The profile whose model the weights must fit.")] = "wan22-a14b",
    fps: Annotated[float, typer.Option(help="Frames a second of the footage the weights know; the published base: 24.")] = 24.0,
    json: Json = False,
) -> None:
    """Read published weights into a world model folder, bit for bit.

    Example: moworld model import Wan2.2-I2V-A14B --out models/base
    """
    from moworld.model.checkpoints import import_model
    from moworld.model.world import WorldConfig
    from pipelines import profile as profiles

    _, settings = profiles.load(profile)
    data = settings.data
    config = WorldConfig(model=settings.model, text=settings.text, height=data.height, width=data.width, fps=fps)
    _print(import_model(source, to, config, settings.seed), to, json)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A world model folder.")],
    to: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint.")],
    layout: Annotated[str, typer.Option(help="wan, diffusers or moworld.")] = "diffusers",
    json: Json = False,
) -> None:
    """Write a world model's experts in another layout, bit for bit.

    Example: moworld model export models/base --layout wan --out Wan2.2-again
    """
    from moworld.model.checkpoints import export_model

    _print(export_model(model, to, layout), to, json)


@app.command()
def inspect(source: Source, json: Json = False) -> None:
    """Show what a checkpoint holds, from its headers alone.

    Example: moworld model inspect Wan2.2-I2V-A14B/high_noise_model
    """
    from rich.tree import Tree

    from moworld.model.checkpoints import describe

    found = describe(source)
    if json:
        print_json(found)
        return
    tree = Tree(source)
    for name, facts in found["experts"].items():
        head = f"{name}: layout {facts['layout']}, {facts['parameters'] / 1e9:.3f} B parameters, {bytes_text(facts['bytes'])}"
        branch = tree.add(f"{head}, {', '.join(f'{dtype} x {count}' for dtype, count in facts['dtypes'].items())}")
        branch.add("config: " + ", ".join(f"{key} {value}" for key, value in facts["config"].items()))
        branch.add(f"camera adapter: {facts['adapter']}")
        parts = branch.add(f"{sum(group['tensors'] for group in facts['groups'].values())} tensors")
        for part, group in facts["groups"].items():
            parts.add(f"{part}: {group['tensors']} tensors, {group['parameters'] / 1e6:.3f} M parameters")
        files = branch.add(f"{len(facts['shards'])} files")
        for file, count in facts["shards"].items():
            files.add(f"{file}: {count} tensors")
    out.print(tree)


def _print(told: dict[str, Any], folder: Path, json: bool) -> None:
    if json:
        print_json({**told, "out": str(folder)})
        return
    for name, facts in told["experts"].items():
        rest = f", camera adapter {facts['adapter']}" if "adapter" in facts else ""
        out.print(f"{name}: {facts['tensors']} tensors, {bytes_text(facts['bytes'])}{rest}")
    out.print(f"layout {told['layout']}, written to {folder}", soft_wrap=True)
