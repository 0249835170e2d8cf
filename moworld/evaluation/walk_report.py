"""Protocol `walk` over models and seeds: stored measurements, a table of means and spreads beside baselines, sheets and a page."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moworld.data.settings import GameSettings
from moworld.evaluation.report import data_uri, write_page
from moworld.evaluation.straight_walks import LOOKS
from moworld.evaluation.study_report import Spread, spread_of
from moworld.evaluation.walk import (
    CODEC_MARKS,
    LOOKS_AT,
    SEPARATION_AT,
    Walks,
    WalkSettings,
    measure_pictures,
    measure_walks,
    measure_without_cameras,
    pca_codec,
    see_walks,
    through_codec,
    warped,
)
from moworld.files import atomic_write, read_json, sha256_tree, write_json
from moworld.model.world import WorldModel

Frames = NDArray[np.uint8]
Results = dict[str, list[dict[str, Any]]]
FORMAT = 2  # of the stored measurements; those of another format are measured again
STRAIGHT_SHEET = (0, 12, 48, 100, 200, 300, 500, 750, 1000)
AWAY_SHEET = (0, 8, 16, 24, 36, 48, 56, 64, 72, 84)
SHOWN = 3  # starts on the sheets
COLUMNS = {
    "PSNR at 61, dB": "psnr_61", "at 96": "psnr_96", "at 250": "psnr_250", "SSIM at 61": "ssim_61", "SSIM at 250": "ssim_250",
    "return, dB": "return_psnr",
    "change at block borders": "block_change", "change between groups of four": "group_change",
    "turning": "turning", "walking": "walking", "strafing": "strafing", "looking": "looking", "wrong turns": "wrong_turns", "R_dist at 250, degrees": "rotation_250", "T_dist at 250, units": "translation_250",
    **{f"separation at {at}, dB": f"separation_{at}" for at in SEPARATION_AT}, f"at {SEPARATION_AT[0]} with one noise, dB": "separation_same_noise",
    **{f"{look} at {at}": f"{look}_{at}" for look in LOOKS for at in LOOKS_AT},
    **{f"drift of {look}": f"drift_{look}" for look in LOOKS}, "sharpness lost": "late_drop",
}  # fmt: skip


def evaluate_walks(models: dict[str, str], settings: WalkSettings, seeds: list[int], out: Path) -> Results:
    """Measures models by name -> folder on the same walks, with their baselines; returns a list of measures by seed for each row.

    Measurements are stored in `out` and reused. Also writes walk.json, walk.html, and sheets of the first seed.
    The baselines are those of the first model, whose size and codec all others must share.
    """
    from tqdm import tqdm

    results: Results = {}
    first, seen, pca = next(iter(models)), dict[int, Walks](), list[Any]()
    for seed, (name, folder) in tqdm([(seed, item) for seed in seeds for item in models.items()], desc="walks", unit="measurement"):
        key = {"format": FORMAT, "model": sha256_tree(folder), "seed": seed, "baselines": name == first, **settings.model_dump()}
        stored, sheet = out / "measured" / f"{file_name(name)}-{seed}.json", out / "sheets" / f"{file_name(name)}.png"
        if not stored.is_file() or read_json(stored)["key"] != key:
            world = WorldModel.load(folder)
            game = GameSettings.model_validate({"yaw_degrees_per_frame": world.config.yaw_degrees})
            if seed not in seen:
                seen = {seed: see_walks(settings, world.config, game, seed)}
            model, made = measure_walks(world, seen[seed], seed)
            rows = {name: model, f"{name}, cameras zeroed": measure_without_cameras(world, seen[seed], seed)}
            if name == first:
                pca = pca or [pca_codec(world.config, game)]
                rows |= _baselines(world, seen[seed], model, pca[0])
            if seed == seeds[0]:
                write_sheet(sheet, made, seen[seed])
            write_json(stored, {"key": key, "rows": rows})
        for row, values in read_json(stored)["rows"].items():
            results.setdefault(row, []).append(values)
    write_json(out / "walk.json", {"settings": settings.model_dump(), "seeds": seeds, "models": models, "rows": results})
    sheets = [{"name": name, "sheet": data_uri(out / "sheets" / f"{file_name(name)}.png", "image/png")} for name in models]
    facts = {"models": ", ".join(f"{name}: {folder}" for name, folder in models.items()), "seeds": seeds, **settings.model_dump()}
    shown = table(results)
    columns = [column for column in COLUMNS if any(row[column] for row in shown.values())]
    write_page(
        out / "walk.html", "walk.html", facts=facts, table=shown, columns=columns, sheets=sheets, straight=STRAIGHT_SHEET, away=AWAY_SHEET
    )
    return results


def table(results: Results) -> dict[str, dict[str, Spread | None]]:
    """Returns row -> column -> mean and standard deviation over seeds, None where a row has no value."""
    return {
        name: {column: spread_of([seed.get(key) for seed in seeds]) for column, key in COLUMNS.items()} for name, seeds in results.items()
    }


def file_name(name: str) -> str:
    """Returns a model's name, which may be a path, as a file name."""
    return name.strip("/").replace("/", "_")


def _baselines(world: WorldModel, walks: Walks, model: dict[str, Any], pca: Any) -> dict[str, dict[str, Any]]:
    """Returns the measures of the baselines by row. model: those of the model; pca: see `pca_codec`"""
    lens = world.config.intrinsics
    engine = {kind: [walk.frames for walk in getattr(walks, kind)] for kind in ("planned", "straight", "away", "tilted")}
    short = ("planned", "away")
    repeated = {kind: [np.broadcast_to(video[:1], video.shape) for video in engine[kind]] for kind in short}
    by_depth = {kind: [warped(walk, lens) for walk in getattr(walks, kind)] for kind in short}
    coded = {kind: [through_codec(world.codec, video, world.device) for video in videos] for kind, videos in engine.items()}
    components = {"planned": [through_codec(pca, video, torch.device("cpu")) for video in engine["planned"]]}
    own = {key.replace("_engine", ""): value for key, value in model.items() if "_engine" in key}
    return {
        "first frame repeated": measure_pictures(repeated, walks),
        "first frame warped by exact depth": measure_pictures(by_depth, walks),
        "engine through the codec": measure_pictures(coded, walks, lens),
        "engine through PCA of as many channels": measure_pictures(components, walks),
        "engine": own | {name: of(engine["planned"]) for name, of in CODEC_MARKS.items()},
    }


def write_sheet(path: Path, made: dict[str, list[Frames]], walks: Walks) -> None:
    """Writes frames of the first SHOWN straight walks, then of looking away and back, engine above model, as one image."""
    from PIL import Image

    rows = []
    for kind, truths, at in (("straight", walks.straight, STRAIGHT_SHEET), ("away", walks.away, AWAY_SHEET)):
        for video, truth in list(zip(made[kind], truths, strict=True))[:SHOWN]:
            rows += [np.concatenate([of[index] for index in at if index < len(of)], axis=1) for of in (truth.frames, video)]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    with atomic_write(path) as stream:
        Image.fromarray(np.concatenate(padded)).save(stream, "PNG")
