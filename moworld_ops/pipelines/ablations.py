"""Variants of a run's student for the study: trained with one change, from the same features and teacher, by the same steps.

They are in `variants/` beside the run. A finished variant is kept while its inputs are unchanged; an interrupted one continues from its
checkpoints.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moworld.distillation.settings import ConsistencySettings, GuidanceSettings
from moworld.errors import InputError
from moworld.files import read_json, write_json
from moworld.training.task import task_of
from moworld_ops.components.platform.launch import run_step
from moworld_ops.pipelines import profile as profiles
from moworld_ops.pipelines.profile import Profile
from moworld_ops.pipelines.runs import Run

SHARE_OF_STEPS = 4  # a start takes a quarter of the steps of autoregressive flow matching


@dataclass(frozen=True)
class Ablation:
    """The name of a variant in the study, and its settings."""

    name: str
    settings: Profile


def anchor(profile: Profile) -> Ablation:
    """Omits the anchor loss (eq. 11) of the autoregressive part."""
    changed = profile.autoregressive.model_copy(update={"anchor_weight": 0.0})
    return Ablation("student, no anchor loss", profile.model_copy(update={"autoregressive": changed}))


def consistency(profile: Profile) -> Ablation:
    """Adds the consistency start, or removes it from a run that has one."""
    return _toggle_start(profile, "consistency", "consistency start", ConsistencySettings)


def guidance(profile: Profile) -> Ablation:
    """Adds the guided start, or removes it from a run that has one."""
    return _toggle_start(profile, "guidance_start", "guided start", GuidanceSettings)


def _toggle_start(profile: Profile, field: str, called: str, settings: type[ConsistencySettings] | type[GuidanceSettings]) -> Ablation:
    """An added start has the learning rate with which autoregressive flow matching ended."""
    own, before = getattr(profile.distill, field), profile.autoregressive
    start = None
    if own is None:
        rate = before.optimizer.model_copy(update={"lr": before.optimizer.lr * before.optimizer.final_lr, "warmup": 0, "final_lr": 1.0})
        start = settings(steps=max(1, before.steps // SHARE_OF_STEPS), frames=before.frames, optimizer=rate)
    changed = profile.distill.model_copy(update={field: start})
    return Ablation(f"student, {'no ' if own else ''}{called}", profile.model_copy(update={"distill": changed}))


ABLATIONS = {"anchor": anchor, "consistency": consistency, "guidance": guidance}


def parse_names(names: str) -> list[str]:
    """Returns names of ABLATIONS from "anchor,consistency"; raises InputError for an unknown one."""
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in ABLATIONS:
            raise InputError("--ablate", "", name, f"some of {', '.join(ABLATIONS)}", "separate them with commas")
    return found


def train_variants(run: Run, names: list[str], folders: dict[str, str]) -> dict[str, str]:
    """Trains the variants of a distilled run; returns name in the study -> model folder.

    folders: result of `moworld_ops.pipelines.study.artifact_folders`: features, teacher, and the student before distillation
    Raises InputError if the run's features, teacher or autoregressive student are not on this machine.
    """
    for name in ("features", "teacher", "before"):
        if names and not Path(folders[name] or "none").is_dir():
            found = folders[name] or "not made by these runs"
            raise InputError(run.name, name, found, "a directory on this machine", "name the run that made it, too")
    profile = profiles.parse(run.record["settings"], str(run.file))
    made = {}
    with run.locked():
        for name in names:
            ablation = ABLATIONS[name](profile)
            made[ablation.name] = str(_train(run.folder / "variants" / name, ablation.settings, profile, folders))
    return made


def _train(folder: Path, settings: Profile, own: Profile, folders: dict[str, str]) -> Path:
    """Returns the folder of a variant's few-step student; the run's own student is reused if the autoregressive part is unchanged."""
    common = {"features": folders["features"], "teacher": folders["teacher"], "seed": own.seed}
    before = folders["before"]
    if settings.autoregressive != own.autoregressive:
        section = settings.autoregressive.model_dump(mode="json")
        arguments = {**common, "settings": section, "model": own.model.model_dump(mode="json")}
        before = str(_step("train_autoregressive", folder / "student", arguments))
    section = settings.distill.model_dump(mode="json")
    return _step("distill", folder / "distilled", {**common, "student": before, "settings": section})


def _step(step: str, out: Path, arguments: dict[str, Any]) -> Path:
    """Runs a component's step in this process, unless its output exists and was made from the same inputs."""
    folders = {key: arguments[key] for key in ("features", "teacher", "student") if key in arguments}
    task = task_of({"step": step, **{key: value for key, value in arguments.items() if key not in folders}}, **folders)
    note = out.with_name(f"{out.name}.json")
    if not (out.is_dir() and note.is_file() and read_json(note) == task):
        shutil.rmtree(out, ignore_errors=True)
        run_step(step, {**arguments, "out": str(out), "checkpoints": str(out.with_name(f"{out.name}.checkpoints"))})
        write_json(note, task)
    return out
