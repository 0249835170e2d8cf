"""A model's videos for VBench-I2V: a rollout from each picture of the suite and for each seed, under VBench's names, resumed where it was."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.evaluation.vbench_suite import Entry
from moworld.files import read_json, sha256_tree, write_json

RECORD = "generation.json"


def generate(
    model: Path,
    entries: list[Entry],
    images: Path,
    to: Path,
    samples: int,
    actions: str,
    progress: Callable[[list[Any], str], Iterable[Any]],
) -> dict[str, Any]:
    """Write PROMPT-INDEX.mp4 for every prompt and seed 0 to samples - 1; those that are there already are kept.

    actions:  the keys of every frame after the first, "w*80": the video has one frame more
    returns:  what generation.json beside the videos says: the model's hash, actions, frames, frames a second
    Raises InputError for a picture that is not there (before anything is generated), and for a folder begun with another model or actions.
    """
    from moworld.camera.controls import parse_controls
    from moworld.evaluation.speed import control_chunks
    from moworld.inference import WorldSession
    from moworld.model.text import make_text_encoder
    from moworld.model.world import WorldModel
    from moworld.video import write_video
    from pipelines.cli.world import read_picture

    for entry in entries:
        if not entry.image or not (images / entry.image).is_file():
            raise InputError(images, entry.image or entry.prompt, "no such picture", "every picture of the suite", "complete the folder")
    frames = 1 + len(parse_controls(actions))
    world = WorldModel.load(model)
    told = {"model": sha256_tree(model), "actions": actions, "frames": frames, "fps": world.config.fps}
    if (to / RECORD).exists():
        _same(to / RECORD, told)
    else:
        write_json(to / RECORD, told)
    left = [(entry, seed, to / name) for entry in entries for seed, name in enumerate(entry.names(samples)) if not (to / name).exists()]
    if not left:
        return told
    session = WorldSession(world, make_text_encoder(world.config.text))
    chunks = control_chunks(actions, session.chunk_frames)
    for entry, seed, video in progress(left, "videos"):
        made = list(session.open(read_picture(images / entry.image), prompt=entry.prompt, seed=seed))
        for keys in chunks:
            made.extend(session.step(keys))
        write_video(video, made[:frames], world.config.fps)
    return told


def _same(path: Path, told: dict[str, Any]) -> None:
    before = read_json(path)
    for name, value in told.items():
        if not isinstance(before, dict) or before.get(name) != value:
            found = before.get(name) if isinstance(before, dict) else "no record"
            raise InputError(path, name, found, f"{value}, as now", "take another --videos folder for other videos")
