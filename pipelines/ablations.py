"""Variants of a run's student for the study: trained anew with one thing changed, from the same features and teacher, by the same steps.

They lie in `variants/` beside the run. One that is done is kept while what it was made of stands; one that was cut goes on from its
checkpoints.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.platform.launch import run_step
from moworld.distillation.consistency import ConsistencySettings
from moworld.distillation.guidance import GuidanceSettings
from moworld.errors import InputError
from moworld.files import read_json, sha256_file, sha256_tree, write_json
from pipelines import profile as profiles
from pipelines.profile import Profile
from pipelines.runs import Run

SHARE_OF_STEPS = 4  # a start takes a quarter of the steps of autoregressive flow matching


@dataclass(frozen=True)
class Ablation:
    """What a variant is called in the study, and its settings. Where the autoregressive part is as in the run, the run's own is taken."""

    name: str
    settings: Profile


def anchor(profile: Profile) -> Ablation:
    """Without the anchor loss (eq. 11), in the autoregressive part."""
    changed = profile.autoregressive.model_copy(update={"anchor_weight": 0.0})
    return Ablation("student, no anchor loss", profile.model_copy(update={"autoregressive": changed}))


def consistency(profile: Profile) -> Ablation:
    """With the consistency start, or without it where the run has one."""
    return _start(profile, "consistency", "consistency start", ConsistencySettings)


def guidance(profile: Profile) -> Ablation:
    """With the guided start, or without it where the run has one."""
    return _start(profile, "guidance_start", "guided start", GuidanceSettings)


def _start(profile: Profile, field: str, called: str, settings: type[ConsistencySettings] | type[GuidanceSettings]) -> Ablation:
    """The other way about than the run. A start that it did not have goes at the rate where autoregressive flow matching ended."""
    own, before = getattr(profile.distill, field), profile.autoregressive
    start = None
    if own is None:
        rate = before.optimizer.model_copy(update={"lr": before.optimizer.lr * before.optimizer.final_lr, "warmup": 0, "final_lr": 1.0})
        start = settings(steps=max(1, before.steps // SHARE_OF_STEPS), frames=before.frames, optimizer=rate)
    changed = profile.distill.model_copy(update={field: start})
    return Ablation(f"student, {'no ' if own else ''}{called}", profile.model_copy(update={"distill": changed}))


ABLATIONS = {"anchor": anchor, "consistency": consistency, "guidance": guidance}


def chosen(names: str) -> list[str]:
    """Names of ABLATIONS from "anchor,consistency". Raises InputError for one that is not known."""
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in ABLATIONS:
            raise InputError("--ablate", "", name, f"some of {', '.join(ABLATIONS)}", "separate them with commas")
    return found


def train_variants(run: Run, names: list[str], folders: dict[str, str]) -> dict[str, str]:
    """Train the variants of a run that distilled; returns name in the study -> model folder.

    folders: as `pipelines.study.folders_of` gives them: features, teacher, and the student before distillation
    Raises InputError where the run's features, teacher or autoregressive student are not on this machine
    """
    for name in ("features", "teacher", "before"):
        if names and not Path(folders[name] or "none").is_dir():
            found = folders[name] or "not made by these runs"
            raise InputError(run.name, name, found, "a folder on this machine", "name the run that made it, too")
    record = run.record
    profile = profiles.parse(record["settings"], str(run.file))
    made = {}
    with run.locked():
        for name in names:
            ablation = ABLATIONS[name](profile)
            made[ablation.name] = str(_train(run.folder / "variants" / name, ablation.settings, profile, folders))
    return made


def _train(folder: Path, settings: Profile, own: Profile, folders: dict[str, str]) -> Path:
    """The few-step student of one variant."""
    common = {"features": folders["features"], "teacher": folders["teacher"], "seed": own.seed}
    before = folders["before"]
    if settings.autoregressive != own.autoregressive:
        section = settings.autoregressive.model_dump(mode="json")
        before = str(
            _step("train_autoregressive", folder / "student", {**common, "settings": section, "model": own.model.model_dump(mode="json")})
        )
    section = settings.distill.model_dump(mode="json")
    return _step("distill", folder / "distilled", {**common, "student": before, "settings": section})


def _step(step: str, out: Path, arguments: dict[str, Any]) -> Path:
    """Run a component's step in this process, unless its output is there and was made of the same things."""
    folders = {key: arguments[key] for key in ("teacher", "student") if key in arguments}
    made_of = {"step": step, "features": sha256_file(Path(arguments["features"]) / "index.parquet")}
    made_of |= {key: sha256_tree(folder) for key, folder in folders.items()}
    made_of |= {key: value for key, value in arguments.items() if key not in (*folders, "features")}
    note = out.with_name(f"{out.name}.json")
    if not (out.is_dir() and note.is_file() and read_json(note) == made_of):
        shutil.rmtree(out, ignore_errors=True)
        run_step(step, {**arguments, "out": str(out), "checkpoints": str(out.with_name(f"{out.name}.checkpoints"))})
        write_json(note, made_of)
    return out
