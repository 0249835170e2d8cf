"""Trains the head on pairs of frames of recorded walks. A function of walks, settings and seed; a stopped training continues."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from moworld.applications.navigation.head import FRAMES, LENGTH, NavigationHead, as_pictures
from moworld.applications.navigation.score import facts_of
from moworld.applications.navigation.settings import HeadSettings
from moworld.applications.navigation.walks import recorded_walks
from moworld.camera import se3
from moworld.data.game_walks import SeenWalk
from moworld.evaluation.walk import through_codec
from moworld.files import atomic_write
from moworld.model.world import WorldModel
from moworld.training.loop import Learner
from moworld.training.settings import OptimizerSettings

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]
CHECKPOINT = "training.safetensors"
VALIDATION_PAIRS = 512
FLIP = torch.tensor([-1.0, 1.0, -1.0, 1.0, 1.0])  # of the outputs for mirrored pictures


@dataclass(frozen=True, eq=False)
class Pairs:
    """Walks to draw pairs from: frames (W, T, H, W', 3) as the engine showed them and after the codec, and poses (W, T, 4, 4).

    speeds: model units and degrees of a frame
    """

    frames: Frames
    coded: Frames
    c2w: Array
    speeds: tuple[float, float]

    @staticmethod
    def of(walks: list[SeenWalk], codec: Any, device: torch.device, speeds: tuple[float, float]) -> "Pairs":
        """Returns the pairs of walks of equal length, (4 k + 1) frames."""
        coded = [through_codec(codec, walk.frames, device) for walk in walks]
        return Pairs(np.stack([walk.frames for walk in walks]), np.stack(coded), np.stack([walk.c2w for walk in walks]), speeds)

    def draw(self, rng: np.random.Generator, count: int, settings: HeadSettings) -> tuple[Tensor, Tensor, Tensor]:
        """Returns pictures and goals (N, 3, H, W), and targets (N, 5) as of `NavigationHead.forward`."""
        walk = rng.integers(len(self.frames), size=count)
        first = rng.integers(self.frames.shape[1], size=count)
        gap = rng.integers(-settings.reach, settings.reach + 1, size=count)
        second = np.clip(first + gap, 0, self.frames.shape[1] - 1)
        coded = rng.random(count) < settings.through_codec
        seen = np.where(coded[:, None, None, None], self.coded[walk, first], self.frames[walk, first])
        pictures, goals = as_pictures(seen), as_pictures(self.frames[walk, second])
        targets = targets_of(self.c2w[walk, first], self.c2w[walk, second], np.abs(second - first), self.speeds)
        mirrored = torch.from_numpy(rng.random(count) < 0.5)
        flip = mirrored[:, None, None, None]
        pictures, goals = (torch.where(flip, part.flip(3), part) for part in (pictures, goals))
        return pictures, goals, torch.where(mirrored[:, None], targets * FLIP, targets)


def targets_of(first: Array, second: Array, gap: NDArray[np.int64], speeds: tuple[float, float]) -> Tensor:
    """Returns the outputs (N, 5) that the head should have for poses (N, 4, 4) of pictures and goals.

    gap: frames between them on the walk; the frames to the goal are those of turning and walking straight, at most the gap
    """
    relative = se3.invert(first) @ second
    right, ahead = relative[:, 0, 3], relative[:, 2, 3]
    yaw = np.arctan2(relative[:, 0, 2], relative[:, 2, 2])
    frames = np.minimum(gap, np.hypot(right, ahead) / speeds[0] + np.abs(np.degrees(yaw)) / speeds[1])
    parts = [right / LENGTH, ahead / LENGTH, np.sin(yaw), np.cos(yaw), np.log1p(frames / FRAMES)]
    return torch.tensor(np.stack(parts, axis=1), dtype=torch.float32)


def train_head(train: Pairs, validation: Pairs, settings: HeadSettings, seed: int, folder: Path) -> dict[str, Any]:
    """Trains a head into a folder; returns its measures on validation pairs. A training that was stopped there continues.

    Raises FloatingPointError if the loss is not finite.
    """
    from tqdm import tqdm

    height, width = train.frames.shape[2:4]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = NavigationHead((height, width), settings.width)
    optimizer = OptimizerSettings(lr=settings.rate, weight_decay=1e-2, warmup=min(100, settings.steps // 10), final_lr=0.02)
    learner = Learner(head, optimizer, settings.steps)
    checkpoint = folder.with_name(f".{folder.name}-{CHECKPOINT}")
    key = f"{settings.model_dump_json()} {seed}"
    start = _restore(checkpoint, key, head, learner)
    losses: list[float] = []
    with tqdm(total=settings.steps, initial=start, desc="navigation head", unit="step", disable=None) as bar:
        for step in range(start, settings.steps):
            pictures, goals, targets = train.draw(np.random.default_rng([seed, 7, step]), settings.batch, settings)
            loss = functional.smooth_l1_loss(head(pictures, goals), targets, beta=0.3)
            learner.step(loss)
            losses.append(loss.item())
            bar.update()
            if (step + 1) % settings.save_every == 0 and step + 1 < settings.steps:
                _save(checkpoint, key, head, learner)
    measured = measure_head(head.eval(), validation, settings)
    head.save(folder, training=settings.model_dump(mode="json"), seed=seed, validation=measured)
    checkpoint.unlink(missing_ok=True)
    return measured


def train_for_model(model: Path, walks: Path, settings: HeadSettings, seed: int, folder: Path) -> dict[str, Any]:
    """Trains a head for a model's pictures and speeds on walks, which are recorded into `walks` or read from there; see `train_head`."""
    world = WorldModel.load(model)
    size_hw, _, speeds = facts_of(world.config)

    def pairs(split: str) -> Pairs:
        return Pairs.of(recorded_walks(walks, settings, size_hw, speeds[1], seed, split), world.codec, world.device, speeds)

    return train_head(pairs("train"), pairs("validation"), settings, seed, folder)


def measure_head(head: NavigationHead, pairs: Pairs, settings: HeadSettings) -> dict[str, Any]:
    """Returns errors on fixed pairs: medians of distance (model units), angle (degrees) and frames, those of the mean target beside them, and
    the correlation of estimated and true frames."""
    pictures, goals, targets = pairs.draw(np.random.default_rng([0, 8]), VALIDATION_PAIRS, settings)
    with torch.inference_mode():
        found = torch.cat([head(*part) for part in zip(pictures.split(64), goals.split(64), strict=True)])

    def errors(made: Tensor) -> dict[str, float]:
        apart = torch.linalg.norm(made[:, :2] - targets[:, :2], dim=1) * LENGTH
        yaw = torch.rad2deg(torch.atan2(made[:, 2], made[:, 3]) - torch.atan2(targets[:, 2], targets[:, 3]))
        frames = (torch.expm1(made[:, 4]) - torch.expm1(targets[:, 4])) * FRAMES
        turned = ((yaw + 180) % 360 - 180).abs()
        return {"units": float(apart.median()), "degrees": float(turned.median()), "frames": float(frames.abs().median())}

    mean = {f"{name}_of_mean": value for name, value in errors(targets.mean(dim=0, keepdim=True).expand_as(targets)).items()}
    return {**errors(found), **mean, "frames_correlation": float(torch.corrcoef(torch.stack([found[:, 4], targets[:, 4]]))[0, 1])}


def _save(path: Path, key: str, head: NavigationHead, learner: Learner) -> None:
    state = learner.state()
    flat = {f"weights {name}": value.contiguous() for name, value in head.state_dict().items()}
    flat |= {f"moments {name} {part}": value for name, parts in state["moments"].items() for part, value in parts.items()}
    with atomic_write(path) as stream:
        stream.close()
        save_file(flat, stream.name, {"key": key, "steps": str(learner.steps)})


def _restore(path: Path, key: str, head: NavigationHead, learner: Learner) -> int:
    """Continues from a checkpoint of the same training; returns the steps that it had, 0 without one."""
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if metadata["key"] != key:
            return 0
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
    head.load_state_dict({name.split(" ")[1]: value for name, value in tensors.items() if name.startswith("weights ")})
    moments: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("moments "):
            _, parameter, part = name.split(" ")
            moments.setdefault(parameter, {})[part] = value
    learner.restore({"moments": moments}, int(metadata["steps"]))
    return learner.steps
