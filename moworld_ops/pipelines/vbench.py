"""Generates a model's videos for VBench-I2V: one rollout per image and seed, with VBench's file names; resumes where it stopped."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moworld.errors import InputError
from moworld.evaluation.vbench_suite import Entry
from moworld.files import read_json_object, sha256_tree, write_json

RECORD = "generation.json"


def generate(
    model: Path,
    entries: list[Entry],
    images: Path,
    to: Path,
    samples: int,
    actions: str,
    progress: Callable[[list[Any], str], Iterable[Any]],
    device: str = "",
) -> dict[str, Any]:
    """Writes PROMPT-INDEX.mp4 for every prompt and seed 0 to samples - 1; existing videos are kept.

    actions:  the keys of every frame after the first, "w*80": the video has one frame more
    device:   see `pick_device`
    returns:  the content of generation.json beside the videos: the model's hash, actions, frames, frames per second
    Raises InputError for a missing image, before anything is generated, and for a folder of another model or other actions.
    """
    from moworld.camera.controls import parse_controls
    from moworld.devices import pick_device
    from moworld.evaluation.speed import control_chunks
    from moworld.inference import WorldSession
    from moworld.model.text import make_text_encoder
    from moworld.model.world import WorldModel
    from moworld.video import write_video
    from moworld_ops.pipelines.cli.inputs import read_picture

    for entry in entries:
        if not entry.image or not (images / entry.image).is_file():
            raise InputError(images, entry.image or entry.prompt, "no such picture", "every image of the suite", "complete the directory")
    frames = 1 + len(parse_controls(actions))
    world = WorldModel.load(model, pick_device(device))
    record = {"model": sha256_tree(model), "actions": actions, "frames": frames, "fps": world.config.fps}
    if not (to / RECORD).exists():
        write_json(to / RECORD, record)
    before = read_json_object(to / RECORD)
    for name, value in record.items():
        if before.get(name) != value:
            raise InputError(to / RECORD, name, before.get(name), f"{value}, as now", "use another --out directory for other videos")
    missing = [(entry, seed, to / name) for entry in entries for seed, name in enumerate(entry.names(samples)) if not (to / name).exists()]
    if not missing:
        return record
    session = WorldSession(world, make_text_encoder(world.config.text, world.device))
    chunks = control_chunks(actions, session.chunk_frames)
    for entry, seed, video in progress(missing, "videos"):
        made = list(session.open(read_picture(images / entry.image), prompt=entry.prompt, seed=seed))
        for keys in chunks:
            made.extend(session.step(keys))
        write_video(video, made[:frames], world.config.fps)
    return record
