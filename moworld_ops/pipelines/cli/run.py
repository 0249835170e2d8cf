"""CLI commands `run` and `compile`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from moworld.errors import InputError
from moworld_ops.pipelines.cli import completion
from moworld_ops.pipelines.cli.layout import Json, Overrides, option
from moworld_ops.pipelines.cli.output import bytes_text, note, print_json, print_result, print_table, working

PipelineName = Annotated[str, typer.Argument(help="data, pretrain, distill, release or lifecycle (all of them).", autocompletion=completion.pipelines)]
Profile = Annotated[str | None, option("Name of a profile, or a .yaml file.", "--profile", autocompletion=completion.profiles)]
CLUSTER = "Cluster (--engine kubeflow)"
SHOWN_FILES = 20
Facts = Callable[[Any], dict[str, Any]]
IMAGES_HELP = "Use these images: YAML with registry, tag or digests, or what 'docker buildx bake --metadata-file' wrote."


def run(
    pipeline: PipelineName,
    profile: Profile = None,
    engine: Annotated[str, option("local or kubeflow.")] = "local",
    overrides: Overrides = None,
    resume: Annotated[str | None, option("Continue this run (a name, or 'latest'); finished steps are kept.", metavar="RUN", autocompletion=completion.runs)] = None,
    detach: Annotated[bool, option("Start the run and return.", "--detach", panel=CLUSTER)] = False,
    schedule: Annotated[str | None, option('Start runs by a cron expression: "0 0 3 * * *".', metavar="CRON", panel=CLUSTER)] = None,
    images: Annotated[Path | None, option(IMAGES_HELP, "--images", metavar="FILE", panel=CLUSTER)] = None,
    json: Json = False,
) -> None:
    """Run a pipeline on this machine or on a cluster.

    Example: moworld run lifecycle --profile pocket --set data.videos=my-clips
    """
    if engine not in ("local", "kubeflow"):
        raise InputError("--engine", "", engine, "local or kubeflow", "omit it for the local engine")
    from moworld_ops.pipelines.runs import Run

    if engine == "kubeflow" or (resume and Run.existing(resume).on_cluster):
        _run_on_cluster(pipeline, profile, [*(overrides or []), *image_overrides(images)], resume, detach, schedule, json)
        return
    if detach or schedule or images:
        raise InputError("--schedule" if schedule else "--detach" if detach else "--images", "", "engine local", "--engine kubeflow", "add it, or omit the option")
    run_here(pipeline, profile, overrides, resume, json)


def run_here(
    pipeline: str, profile: str | None, overrides: list[str] | None, resume: str | None, json: bool, facts: Facts | None = None
) -> None:
    """Runs or resumes a pipeline on this machine, and prints its outcome; exits with the run's status. facts: more to print, of the run."""
    from moworld_ops.pipelines import start
    from moworld_ops.pipelines.runs import summary

    progress = Progress()
    if resume is None:
        done = start.start(pipeline, profile or "pocket", overrides or [], progress, progress.announce)
    else:
        done = start.resume(resume, pipeline, profile, overrides or [], progress, progress.announce)
    progress.stop()
    record = done.record
    if json:
        print_json(summary(done) | (facts(done) if facts else {}))
    else:
        _print_outcome(record)
        if facts:
            print_facts(facts(done))
    if record["error"]:
        note(record["error"])
    if record["exit"]:
        note(f"log: {done.folder / 'log.txt'}; continue with: moworld run {record['pipeline']} --resume {done.name}")
        raise typer.Exit(int(record["exit"]))


class Progress:
    """Prints a line on stderr for each finished step; on a terminal also the step that is running."""

    def __init__(self) -> None:
        self.status: Any = None

    def announce(self, run: Any) -> None:
        note(f"run {run.name} in {run.folder}")

    def __call__(self, name: str, record: dict[str, Any]) -> None:
        self.stop()
        if record["status"] == "running":
            self.status = working(f"{name} (since {time.strftime('%H:%M:%S', time.localtime(record['started']))})")
            self.status.start()
            return
        note(f"  {record['status']:<8} {name:<24} {record.get('seconds', 0):8.1f} s  {bytes_text(record.get('peak_bytes', 0)):>9}")

    def stop(self) -> None:
        if self.status is not None:
            self.status.stop()
            self.status = None


def print_facts(facts: dict[str, Any]) -> None:
    """Prints what an import did with its files and clips (`steward.import_facts`)."""
    counts = facts["counts"]
    others = [(row["file"], row["fate"], row["why"]) for row in facts["files"] if row["fate"] not in ("imported", "used")]
    if others:
        more = [("...", "", f"{len(others) - SHOWN_FILES} more: --json lists all")] if len(others) > SHOWN_FILES else []
        print_table("files that were not imported", ("file", "fate", "why"), [*others[:SHOWN_FILES], *more])
    print(f"{counts['files']} files: {counts['clips']} clips in the data, {counts['new']} of them new, {counts['rejected']} rejected")
    rows = [(row["clip"], row["source_file"], row["rule"], row["value"], row["threshold"], row["repeats"] or "") for row in facts["rejected"]]
    if rows:
        print_table("rejected", ("clip", "file", "rule", "value", "expected", "repeats"), rows)


def _print_outcome(record: dict[str, Any]) -> None:
    from moworld_ops.components.platform.verification import flat

    last = record["attempts"][-1]["seconds"]
    outside = f" (outside the steps: {100 * record['orchestration_seconds'] / last:.1f} %)" if last > 1 else ""
    print(f"{record['status']} in {record['seconds']:.1f} s{outside}")
    if record.get("report"):
        print(f"report: {record['report']}")
    if model := record.get("model"):
        print(f"model:  {model['name']} version {model['version']} ({model['alias']}), sha256 {model['hash'][:16]}")
        for name, value in sorted(flat(record.get("metrics", {})).items()):
            print(f"  {name:<44} {value:.4g}")


def compile_(
    pipeline: Annotated[str, typer.Argument(help="data, pretrain, distill, release, lifecycle, or all for one file each.", autocompletion=completion.pipelines_or_all)],
    profile: Profile = None,
    to: Annotated[Path, option("Directory for the YAML files.", "--out", panel="Output")] = Path("build"),
    overrides: Overrides = None,
    images: Annotated[Path | None, option(IMAGES_HELP, "--images", metavar="FILE")] = None,
    json: Json = False,
) -> None:
    """Compile pipelines to KFP IR YAML and validate it.

    Example: moworld compile all --profile wan22-a14b --out build/
    """
    from moworld_ops.components.platform.images import unpinned
    from moworld_ops.pipelines import profile as profiles

    _, settings = profiles.load(profile or "wan22-a14b", [*(overrides or []), *image_overrides(images)])
    from moworld_ops.pipelines.engine_kubeflow import compile_all

    with working(f"compiling {pipeline}"):
        found = compile_all([pipeline], settings, to)
    if not settings.images.own:
        _warn_of_images()
    if (missing := unpinned()) and not settings.images.own:
        note(f"warning: base images without a digest (images/README.md): {', '.join(missing)}")
    rows = [{"pipeline": name, "path": str(to / f"{name}.yaml"), **facts} for name, facts in found.items()]
    lines = [f"{row['path']}: {row['tasks']} tasks, {len(row['trainjobs'])} of them as TrainJobs" for row in rows]
    print_result(json, rows, "\n".join(lines))


def image_overrides(file: Path | None) -> list[str]:
    """Returns the content of `--images FILE` as an override of section `images`; [] without a file. Raises InputError for another content."""
    if file is None:
        return []
    from json import dumps

    from moworld_ops.components.platform.images import own_images

    return [f"images={dumps(own_images(file))}"]


def _warn_of_images() -> None:
    """Prints which images a cluster cannot pull, and which run other code than this."""
    from moworld_ops.components.platform.images import outdated, unpublished

    if missing := unpublished():
        note(f"warning: images not pushed yet, their digest is that of their build inputs: {', '.join(missing)}")
    if old := outdated():
        note(f"warning: images built from other sources than these (images/README.md): {', '.join(old)}")


def _run_on_cluster(
    pipeline: str, profile: str | None, overrides: list[str], resume: str | None, detach: bool, schedule: str | None, json: bool
) -> None:
    from moworld_ops.components.platform.image_settings import ImageSettings
    from moworld_ops.pipelines import kubeflow_runs as kubeflow
    from moworld_ops.pipelines.runs import Run, summary

    if resume:
        from moworld_ops.pipelines.kubeflow_resume import resume as continued

        former = Run.existing(resume)
        run = continued(former, pipeline, {"--profile": profile, "--set": overrides, "--schedule": schedule})
        if run.name != former.name:
            taken = run.record["continues"]
            note(f"Kubeflow Pipelines cannot retry run {former.name} ({taken['reason']}): run {run.name} continues it")
            note(f"kept: {', '.join(taken['steps']) or 'nothing, because no output of a finished step was found'}")
    elif schedule:
        name, made = kubeflow.schedule(pipeline, profile or "pocket", overrides, schedule)
        _warn_of_images()
        print_result(json, {"schedule": name, "cron": schedule, "id": made}, f"{name} runs at {schedule} ({made})")
        return
    else:
        run = kubeflow.submit(pipeline, profile or "pocket", overrides)
        if run.record["unchecked"]:
            note(f"warning: {run.record['unchecked']}")
        if run.record["settings"]["images"] == ImageSettings().model_dump(mode="json"):
            _warn_of_images()
    where = run.record["kubeflow"]
    note(f"run {run.name} is {run.page}")
    if not detach:
        progress = Progress()
        try:
            kubeflow.watch(run, progress)
        except KeyboardInterrupt:
            note(f"the run continues: moworld runs show {run.name}; cancel it with: moworld runs cancel {run.name}")
            raise typer.Exit(130) from None
        finally:
            progress.stop()
    record = run.record
    print_result(json, {**summary(run), "id": where["id"]}, record["status"] + ("" if detach else f" in {record['seconds']:.1f} s"))
    if record["error"]:
        note(f"{record['error']}; continue with: moworld run {record['pipeline']} --resume {run.name}")
    if record.get("exit"):
        raise typer.Exit(int(record["exit"]))
