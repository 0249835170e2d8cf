"""What would be seen after each of some plans: imagined by the world model, or looked up in the engine as the upper bound."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moworld.applications.navigation.planners import Plan, beginnings
from moworld.applications.navigation.player import Seen
from moworld.camera.controls import Walk
from moworld.data.game_walks import Level, Place
from moworld.distillation.autoregressive import rollout_of
from moworld.evaluation.protocol import BlindRollout
from moworld.model.history import HistoryBank
from moworld.model.latent_cameras import LatentCameras
from moworld.model.rollout import NoisePerWorld, Rollout, world_generator
from moworld.model.world import WorldModel
from moworld.training.codec import to_video

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]


class Simulator(Protocol):
    def imagine(self, seen: Seen, plans: list[Plan]) -> dict[Plan, Any]:
        """Returns what is seen after each plan and each beginning of one, from what an agent has seen; () is now."""


@dataclass(frozen=True, eq=False)
class WorldSimulator:
    """Imagines pictures (H, W, 3) uint8 by a world model; all that the agent has seen is the history of its rollouts.

    Plans are generated together: a batch has all different beginnings of one length. They share the noise, so that they differ by their keys alone.
    camera: false sets all camera rays to zero, so that the keys change nothing
    """

    world: WorldModel
    seed: int
    camera: bool = True

    @torch.inference_mode()
    def imagine(self, seen: Seen, plans: list[Plan]) -> dict[Plan, Frames]:
        world, codec = self.world, self.world.codec
        rollout = _rollout(world, seen, Rollout if self.camera else BlindRollout)
        video, cache = codec.decode_chunk(rollout.bank.latents, None)
        found: dict[Plan, Frames] = {(): _last_frame(video)[0]}
        walks: dict[Plan, Walk] = {(): _walk_from(world, seen.c2w[-1])}
        parents: list[Plan] = [()]
        for length in range(1, max(map(len, plans), default=0) + 1):
            children = beginnings(plans, length)
            rows = torch.tensor([parents.index(plan[:-1]) for plan in children])
            noise = NoisePerWorld(tuple(world_generator(100 * self.seed + length, seen.frames[-1]) for _ in children))
            rollout = rollout.branch(rows, noise)
            walks |= {plan: walks[plan[:-1]].copy() for plan in children}
            c2w = np.stack([walks[plan].go(plan[-1]) for plan in children])
            latents = rollout.next_chunk(torch.tensor(c2w, dtype=torch.float32))
            cache = [part[rows] if isinstance(part, Tensor) else part for part in cache]
            video, cache = codec.decode_chunk(latents, cache)
            found |= dict(zip(children, _last_frame(video), strict=True))
            parents = children
        return found


def _rollout(world: WorldModel, seen: Seen, kind: type[Rollout]) -> Rollout:
    """Returns a rollout of one world, whose history is what was seen."""
    config, count = world.config, len(seen.frames)
    c2w = torch.tensor(seen.c2w, dtype=torch.float32)[None]
    intrinsics = torch.tensor(config.intrinsics).expand(1, count, 4)
    latents = world.codec.encode(to_video(seen.frames).to(world.device)).float()
    text = torch.zeros(1, config.text.length, config.model.text_dim)
    batch = {"latents": latents, "text": text, "c2w": c2w, "intrinsics": intrinsics}
    batch = {key: value.to(world.device) for key, value in batch.items()}
    rollout = rollout_of(world, batch, world_generator(0, seen.frames[-1]), kind, world.denoiser.denoise)
    cameras = LatentCameras.from_frames(batch["intrinsics"], batch["c2w"])
    rollout.bank = HistoryBank(latents, cameras, config.model.history.capacity)
    return rollout


def _walk_from(world: WorldModel, c2w: Array) -> Walk:
    walk = Walk(world.config.move_units, world.config.yaw_degrees)
    walk.set_pose(c2w)
    return walk


def _last_frame(video: Tensor) -> Frames:
    """Returns the last frames (B, H, W, 3) uint8 of video (B, 3, T, H, W) in [-1, 1]."""
    last = ((video[:, :, -1] + 1) * 127.5).round().clamp(0, 255).byte()
    return last.permute(0, 2, 3, 1).contiguous().cpu().numpy()  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class PlaceSimulator:
    """Follows plans on the level's own floor and walls: the place after each."""

    level: Level

    def imagine(self, seen: Seen, plans: list[Plan]) -> dict[Plan, Place]:
        found: dict[Plan, Place] = {(): seen.place}
        for length in range(1, max(map(len, plans), default=0) + 1):
            for plan in beginnings(plans, length):
                found[plan] = self.level.follow(found[plan[:-1]], list(plan[-1]))[-1]
        return found


@dataclass(frozen=True, eq=False)
class EngineSimulator:
    """The engine as world model: the pictures at the places to which the plans lead."""

    level: Level

    def imagine(self, seen: Seen, plans: list[Plan]) -> dict[Plan, Frames]:
        places = PlaceSimulator(self.level).imagine(seen, plans)
        self.level.engine.restart()
        return dict(zip(places, self.level.views(list(places.values())).frames, strict=True))
