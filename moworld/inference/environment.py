"""A Gymnasium environment for agents, on the engine that serves people: one step is one chunk of the world under one action.

    env = gymnasium.make("moworld.inference.environment:MoWorld-v0", model="models/pocket-long")
    envs = gymnasium.make_vec("moworld.inference.environment:MoWorld-v0", num_envs=4, model="models/pocket-long")

A chunk is the unit in which a world model answers (paper 5.2), so an action is held for its frames, as frame skipping holds it elsewhere. A
generated world has no score and no end of its own: reward is 0 unless a goal or a function is given, and an episode is truncated, never
terminated. Importing this loads neither PyTorch nor a model.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiDiscrete
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

from moworld.errors import InputError
from moworld.files import Pathlike

if TYPE_CHECKING:  # they load PyTorch
    from concurrent.futures import Future

    from moworld.inference.engine import Chunk, Engine

Frames = NDArray[np.uint8]
Info = dict[str, Any]
Reward = Callable[[Frames, Info], float]
ID = "MoWorld-v0"
AXES = (("w", "s"), ("d", "a"), ("l", "j"), ("i", "k"))  # keys of the values 1 and 2 of each number of an action; 0 is rest
OPTIONS = ("first_frame", "prompt", "goal")


def keys_of(action: Any) -> str:
    """The keys of an action. Raises InputError for anything but four whole numbers of 0 to 2."""
    numbers = np.asarray(action)
    if numbers.shape != (len(AXES),) or numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() > 2:
        raise InputError("action", "", repr(action), "four whole numbers of 0 to 2", "see WorldEnvironment.action_space")
    return "".join(("", *axis)[number] for axis, number in zip(AXES, numbers, strict=True))


class WorldEnvironment(gymnasium.Env[Frames, NDArray[np.int64]]):
    """Walk, strafe, turn and look up and down in a generated world.

    model:         a model folder, or an Engine that environments share (one place of it each, given back by `close`)
    pictures:      first frames (H, W, 3) uint8 of any size, of which `reset` draws one; None takes those beside the model in its folder
    max_chunks:    an episode is truncated after so many steps; None never does
    reward:        reward(frames, info) -> float after each step; None is minus `goal_distance` where option `goal` was given, and 0 without
    chunk_latents: latent frames of a chunk, 4 frames each; None takes the model's own. Only with a folder: an engine has its own

    Action: MultiDiscrete([3, 3, 3, 3]): forward and back, right and left, turn right and left, look up and down; 0 is rest. Keys that cancel
    each other cannot be said. Observation: the newest frame, (H, W, 3) uint8 RGB. Info: `frames` (T, H, W, 3) uint8, all of the chunk (after
    `reset` the first one T times, so that the shape stays), `c2w` (4, 4), the camera's pose in the world of the first frame, and with a goal
    `goal_distance`, the mean absolute difference of the newest frame to it as a fraction of the full range.

    Options of `reset`: `first_frame` (H, W, 3) uint8 of any size, `prompt`, `goal` (H, W, 3) uint8 of any size. An episode is a function of the
    seed and its options: the seed draws the picture and the noise of every chunk.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012  Gymnasium reads it of the class

    def __init__(
        self,
        model: "Pathlike | Engine",
        *,
        render_mode: str | None = None,
        pictures: Sequence[Frames] | None = None,
        max_chunks: int | None = 100,
        reward: Reward | None = None,
        chunk_latents: int | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise InputError("environment", "render_mode", render_mode, "rgb_array or None", "draw or record the frames yourself")
        self._owned = _engine(model, 1, chunk_latents) if isinstance(model, str | Path) else None
        self.engine: Engine = self._owned or model  # type: ignore[assignment]
        self.pictures = _pictures(model) if pictures is None and isinstance(model, str | Path) else list(pictures or ())
        self.render_mode, self.max_chunks, self.reward = render_mode, max_chunks, reward or _minus_distance
        self.seat, config = self.engine.admit(), self.engine.model.config
        self.chunk_frames = self.seat.session.chunk_frames
        self.metadata = {**self.metadata, "render_fps": config.fps / self.chunk_frames}
        self.observation_space = Box(0, 255, (config.height, config.width, 3), np.uint8)
        self.action_space = MultiDiscrete([3] * len(AXES))
        self.chunks = 0
        self._goal: Frames | None = None
        self._frame: Frames | None = None
        self._begun: Future[Chunk] | None = None

    @property
    def ended(self) -> bool:
        """Whether the episode was truncated."""
        return self.chunks == self.max_chunks

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frames, Info]:
        """Open a world (see the class for options). Raises InputError for options that are unknown or no pictures."""
        super().reset(seed=seed)
        if self._begun is not None:  # a vector of environments may have failed between asking and awaiting
            self._begun.exception()
            self._begun = None
        options, (height, width, _) = options or {}, self.observation_space.shape or ()
        if unknown := sorted(options.keys() - set(OPTIONS)):
            raise InputError("environment", "options", ", ".join(unknown), f"some of {', '.join(OPTIONS)}", "leave it away")
        noise = int(self.np_random.integers(2**31))
        first = _picture("first_frame", options["first_frame"] if "first_frame" in options else self._drawn())
        self._goal = _fitted(_picture("goal", options["goal"]), height, width) if "goal" in options else None
        frames = self.seat.open(first, options.get("prompt", ""), noise).result().frames
        self.chunks = 0
        return self._seen(np.repeat(frames, self.chunk_frames, axis=0))

    def begin(self, action: Any) -> None:
        """Ask for the chunk that the next `step` awaits. Raises InputError for an action that is not in the action space."""
        self._begun = self.seat.step([keys_of(action)] * self.chunk_frames)

    def step(self, action: Any) -> tuple[Frames, float, bool, bool, Info]:
        """Hold an action for a chunk. Raises InputError for one that is not in the action space, and before `reset`."""
        if self._begun is None:
            self.begin(action)
        asked, self._begun = self._begun, None
        assert asked is not None
        frames = asked.result().frames
        self.chunks += 1
        frame, info = self._seen(frames)
        return frame, float(self.reward(frames, info)), False, self.ended, info

    def render(self) -> Frames | None:  # type: ignore[override]
        """The newest frame, (H, W, 3) uint8 RGB; None without render_mode."""
        return None if self.render_mode is None or self._frame is None else self._frame.copy()

    def close(self) -> None:
        """Give the place back, and end an engine that was made for this environment."""
        self.seat.leave()
        if self._owned is not None:
            self._owned.close()

    def _seen(self, frames: Frames) -> tuple[Frames, Info]:
        self._frame = frames[-1].copy()
        info: Info = {"frames": frames, "c2w": self.seat.session.walk.c2w}
        if self._goal is not None:
            info["goal_distance"] = float(np.abs(self._frame.astype(np.float64) - self._goal).mean() / 255)
        return self._frame.copy(), info

    def _drawn(self) -> Frames:
        if not self.pictures:
            mend = 'pass pictures=[...], or options={"first_frame": ...} to reset'
            raise InputError("environment", "pictures", "none", "a picture to start from", mend)
        return self.pictures[int(self.np_random.integers(len(self.pictures)))]


class WorldVectorEnvironment(SyncVectorEnv):
    """Environments that share one model: `num_envs` sessions of one engine. The arguments are those of `WorldEnvironment`.

    In `step` every chunk is asked for before the first is awaited: one environment's denoising runs beside another's decoding.
    """

    def __init__(self, num_envs: int, model: "Pathlike | Engine", *, chunk_latents: int | None = None, **settings: Any) -> None:
        self._owned = _engine(model, num_envs, chunk_latents) if isinstance(model, str | Path) else None
        if settings.get("pictures") is None and isinstance(model, str | Path):
            settings["pictures"] = _pictures(model)
        shared: Any = self._owned or model
        super().__init__([lambda: WorldEnvironment(shared, **settings)] * num_envs)

    def step(self, actions: Any) -> Any:
        """A chunk of every environment; one that was truncated is reset instead, as Gymnasium does it."""
        worlds: list[Any] = self.envs
        for world, action in zip(worlds, actions, strict=True):
            if not world.ended:
                world.begin(action)
        return super().step(actions)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments, and the engine that was made for them."""
        super().close_extras(**kwargs)
        if self._owned is not None:
            self._owned.close()


def _engine(folder: Pathlike, sessions: int, chunk_latents: int | None) -> "Engine":
    from moworld.inference.engine import Engine
    from moworld.model.world import WorldModel

    return Engine(WorldModel.load(folder), sessions, chunk_latents)


def _pictures(folder: Pathlike) -> list[Frames]:
    from moworld.inference.player.server import pictures_of

    return pictures_of(Path(folder))


def _picture(name: str, picture: Any) -> Frames:
    found = np.asarray(picture)
    if found.ndim != 3 or found.shape[2] != 3 or found.dtype != np.uint8:
        raise InputError("environment", name, f"{found.shape} {found.dtype}", "(H, W, 3) uint8", "convert the image to RGB")
    return found


def _fitted(picture: Frames, height: int, width: int) -> Frames:
    """As a first frame is fitted: the central crop, resized."""
    from moworld.camera.cameras import resize_to_cover

    return resize_to_cover(picture, (height, width))


def _minus_distance(frames: Frames, info: Info) -> float:
    return -info.get("goal_distance", 0.0)


if ID not in gymnasium.registry:
    gymnasium.register(ID, f"{__name__}:WorldEnvironment", vector_entry_point=f"{__name__}:WorldVectorEnvironment")
