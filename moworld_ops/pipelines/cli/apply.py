"""CLI commands `apply ...`: applications of a world model (paper 7). The list of commands; each is in a module of its own."""

from moworld_ops.pipelines.cli.layout import Commands
from moworld_ops.pipelines.cli.navigate import navigate
from moworld_ops.pipelines.cli.splats import splats

app = Commands(help="Use videos and world models: scenes of gaussian splats, walks to a goal.")
app.command("navigate")(navigate)
app.command("splats")(splats)
