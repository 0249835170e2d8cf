"""CLI commands `model import`, `export` and `inspect`: checkpoints of Wan2.2, Diffusers and the published MoWorld base."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moworld_ops.pipelines.cli import completion
from moworld_ops.pipelines.cli.layout import Commands, Json, option
from moworld_ops.pipelines.cli.output import bytes_text, print_json, working

app = Commands(help="Import, export and inspect checkpoints.")
Source = Annotated[str, typer.Argument(help="A directory, a .safetensors file, or an fsspec URI of either.")]


@app.command("import")
def import_(
    source: Source,
    to: Annotated[Path, option("Directory for the world model.", "--out", panel="Output")],
    profile: Annotated[str, option("Profile whose model sizes the weights must have.", autocompletion=completion.profiles)] = "wan22-a14b",
    fps: Annotated[float, option("Frames per second of the training footage; the published base: 24.")] = 24.0,
    json: Json = False,
) -> None:
    """Convert published weights to a world model directory, bit for bit.

    Example: moworld model import Wan2.2-I2V-A14B --out models/base
    """
    from moworld.files import output_directory
    from moworld_ops.pipelines import profile as profiles

    folder = output_directory(to, "model_index.json", ("transformer", "transformer_2"))
    _, settings = profiles.load(profile)
    from moworld.model.checkpoints import import_model
    from moworld.model.world import WorldConfig

    data = settings.data
    config = WorldConfig(model=settings.model, text=settings.text, height=data.height, width=data.width, fps=fps)
    with working(f"reading {source}"):
        written = import_model(source, folder, config, settings.seed)
    _print(written, to, json)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A world model directory.")],
    to: Annotated[Path, option("Directory for the checkpoint.", "--out", panel="Output")],
    layout: Annotated[str, option("wan, diffusers or moworld.")] = "diffusers",
    json: Json = False,
) -> None:
    """Write the experts of a world model in another layout, bit for bit.

    Example: moworld model export models/base --layout wan --out wan-checkpoint
    """
    from moworld.files import output_directory
    from moworld.model.checkpoints import export_model

    diffusers = ("model_index.json", ("transformer", "transformer_2", "vae"))
    folder = output_directory(to, *diffusers) if layout == "diffusers" else output_directory(to)
    with working(f"writing {to}"):
        written = export_model(model, folder, layout)
    _print(written, to, json)


@app.command()
def inspect(source: Source, json: Json = False) -> None:
    """Show the tensors of a checkpoint; only its headers are read.

    Example: moworld model inspect Wan2.2-I2V-A14B/high_noise_model
    """
    from moworld.model.checkpoints import describe

    found = describe(source)
    if json:
        print_json(found)
        return
    from rich.console import Console
    from rich.tree import Tree

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
    Console(highlight=False).print(tree)


def _print(written: dict[str, Any], folder: Path, json: bool) -> None:
    if json:
        print_json({**written, "out": str(folder)})
        return
    for name, facts in written["experts"].items():
        rest = f", camera adapter {facts['adapter']}" if "adapter" in facts else ""
        print(f"{name}: {facts['tensors']} tensors, {bytes_text(facts['bytes'])}{rest}")
    print(f"layout {written['layout']}, written to {folder}")
