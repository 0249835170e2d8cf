"""Gymnasium environment on the serving engine: one step is one chunk of the world under one action.

    env = gymnasium.make("moworld.inference.environment:MoWorld-v0", model="models/pocket-long")
    envs = gymnasium.make_vec("moworld.inference.environment:MoWorld-v0", num_envs=4, model="models/pocket-long")

The model generates chunks (paper 5.2), so an action is held for a chunk, like frame skipping elsewhere. A generated world has no score and
no end: the reward is 0 unless a goal or a function is given, and episodes are truncated, never terminated. Importing this module loads
neither PyTorch nor a model.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiDiscrete
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

from moworld.camera.cameras import resize_to_cover
from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.inference.pictures import model_pictures
from moworld.video import Frames

if TYPE_CHECKING:  # they load PyTorch
    from concurrent.futures import Future

    from moworld.inference.engine import Chunk, Engine

Info = dict[str, Any]
Reward = Callable[[Frames, Info], float]
ID = "MoWorld-v0"
AXES = (("w", "s"), ("d", "a"), ("l", "j"), ("i", "k"))  # keys of the values 1 and 2 of each number of an action; 0 is no key
OPTIONS = ("first_frame", "prompt", "goal")


def action_keys(action: Any) -> str:
    """Returns the keys of an action. Raises InputError for anything but four integers of 0 to 2."""
    numbers = np.asarray(action)
    if numbers.shape != (len(AXES),) or numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() > 2:
        raise InputError("action", "", repr(action), "four integers of 0 to 2", "see WorldEnvironment.action_space")
    return "".join(("", *axis)[number] for axis, number in zip(AXES, numbers, strict=True))


class WorldEnvironment(gymnasium.Env[Frames, NDArray[np.int64]]):
    """Walk, strafe, turn and look up and down in a generated world.

    model:         a model folder, or an Engine shared by environments; each uses one slot, which `close` frees
    pictures:      first frames (H, W, 3) uint8 of any size, of which `reset` draws one; None uses those in the model folder
    max_chunks:    number of steps after which an episode is truncated; None never truncates
    reward:        reward(frames, info) -> float after each step; None is minus `goal_distance`, 0 without a goal
    chunk_latents: latent frames of a chunk, 4 frames each; None uses the model's. Ignored with an Engine, which has its own
    device:        of a model folder, such as "cuda:1"; "" is this machine's accelerator, or the CPU

    Action: MultiDiscrete([3, 3, 3, 3]): forward and back, right and left, turn right and left, look up and down; 0 is no key.
    Observation: the newest frame, (H, W, 3) uint8 RGB. Info: `frames` (T, H, W, 3) uint8 of the chunk (after `reset` the first frame T
    times), `c2w` (4, 4), the camera pose in the world of the first frame, and with a goal `goal_distance`, the mean absolute difference
    of the newest frame to it as a fraction of the full range.

    Options of `reset`: `first_frame` and `goal` (H, W, 3) uint8 of any size, `prompt`. An episode is a function of seed and options: the
    seed draws the picture and the noise of every chunk.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012  Gymnasium reads it from the class

    def __init__(
        self,
        model: "Pathlike | Engine",
        *,
        render_mode: str | None = None,
        pictures: Sequence[Frames] | None = None,
        max_chunks: int | None = 100,
        reward: Reward | None = None,
        chunk_latents: int | None = None,
        device: str = "",
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise InputError("environment", "render_mode", render_mode, "rgb_array or None", "record the frames of info yourself")
        self.engine, self._owned, found = _open(model, 1, chunk_latents, device)
        self.pictures = found if pictures is None else list(pictures)
        self.render_mode, self.max_chunks, self.reward = render_mode, max_chunks, reward or (lambda _, info: -info.get("goal_distance", 0.0))
        self.slot, config = self.engine.admit(), self.engine.model.config
        self.chunk_frames = self.slot.session.chunk_frames
        self.metadata = {**self.metadata, "render_fps": config.fps / self.chunk_frames}
        self.observation_space = Box(0, 255, (config.height, config.width, 3), np.uint8)
        self.action_space = MultiDiscrete([3] * len(AXES))
        self.chunks = 0
        self._goal: Frames | None = None
        self._frame: Frames | None = None
        self._requested: Future[Chunk] | None = None

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frames, Info]:
        """Opens a world (see the class for options). Raises InputError for unknown or invalid options and if there is no picture."""
        super().reset(seed=seed)
        if self._requested is not None:  # a vector of environments may have failed between request and step
            self._requested.exception()
            self._requested = None
        options, (height, width, _) = options or {}, self.observation_space.shape or ()
        if unknown := sorted(options.keys() - set(OPTIONS)):
            raise InputError("environment", "options", ", ".join(unknown), f"some of {', '.join(OPTIONS)}", "omit it")
        noise = int(self.np_random.integers(2**31))
        if "first_frame" not in options and not self.pictures:
            fix = 'pass pictures=[...], or options={"first_frame": ...} to reset'
            raise InputError("environment", "pictures", "none", "a picture to start from", fix)
        drawn = None if "first_frame" in options else self.pictures[int(self.np_random.integers(len(self.pictures)))]
        first = _checked("first_frame", options.get("first_frame", drawn))
        self._goal = resize_to_cover(_checked("goal", options["goal"]), (height, width)) if "goal" in options else None
        frames = self.slot.open(first, options.get("prompt", ""), noise).result().frames
        self.chunks = 0
        return self._observe(np.repeat(frames, self.chunk_frames, axis=0))

    def request(self, action: Any) -> None:
        """Starts the chunk that the next `step` returns. Raises InputError for an invalid action."""
        self._requested = self.slot.step([action_keys(action)] * self.chunk_frames)

    def step(self, action: Any) -> tuple[Frames, float, bool, bool, Info]:
        """Holds an action for a chunk. Raises InputError for an invalid action and before `reset`."""
        if self._requested is None:
            self.request(action)
        requested, self._requested = self._requested, None
        assert requested is not None
        frames = requested.result().frames
        self.chunks += 1
        frame, info = self._observe(frames)
        return frame, float(self.reward(frames, info)), False, self.chunks == self.max_chunks, info

    def render(self) -> Frames | None:  # type: ignore[override]
        """Returns the newest frame, (H, W, 3) uint8 RGB; None without render_mode."""
        return None if self.render_mode is None or self._frame is None else self._frame.copy()

    def close(self) -> None:
        """Frees the slot, and stops an engine that was made for this environment."""
        self.slot.release()
        if self._owned:
            self.engine.close()

    def _observe(self, frames: Frames) -> tuple[Frames, Info]:
        self._frame = frames[-1].copy()
        info: Info = {"frames": frames, "c2w": self.slot.session.walk.c2w}
        if self._goal is not None:
            info["goal_distance"] = float(np.abs(self._frame.astype(np.float64) - self._goal).mean() / 255)
        return self._frame.copy(), info


class WorldVectorEnvironment(SyncVectorEnv):
    """`num_envs` environments on one engine. The arguments are those of `WorldEnvironment`.

    `step` requests all chunks before it waits for the first: one environment's chunk is denoised while another's is decoded.
    """

    def __init__(self, num_envs: int, model: "Pathlike | Engine", *, chunk_latents: int | None = None, device: str = "", **settings: Any) -> None:
        self.engine, self._owned, found = _open(model, num_envs, chunk_latents, device)
        if settings.get("pictures") is None:
            settings["pictures"] = found
        super().__init__([lambda: WorldEnvironment(self.engine, **settings)] * num_envs)

    def step(self, actions: Any) -> Any:
        """Steps all environments; one that was truncated is reset instead, as in Gymnasium."""
        worlds: list[Any] = self.envs
        for world, action in zip(worlds, actions, strict=True):
            if world.chunks != world.max_chunks:
                world.request(action)
        return super().step(actions)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments, and the engine that was made for them."""
        super().close_extras(**kwargs)
        if self._owned:
            self.engine.close()


def _open(model: "Pathlike | Engine", sessions: int, chunk_latents: int | None, device: str) -> "tuple[Engine, bool, list[Frames]]":
    """Returns the engine, whether it was made here, and the pictures of a model folder."""
    if not isinstance(model, str | Path):
        return model, False, []  # type: ignore[return-value]
    from moworld.devices import pick_device
    from moworld.inference.engine import Engine
    from moworld.model.world import WorldModel

    return Engine(WorldModel.load(model, pick_device(device)), sessions, chunk_latents), True, model_pictures(model)


def _checked(name: str, picture: Any) -> Frames:
    array = np.asarray(picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InputError("environment", name, f"{array.shape} {array.dtype}", "(H, W, 3) uint8", "convert the image to RGB")
    return array


if ID not in gymnasium.registry:
    gymnasium.register(ID, f"{__name__}:WorldEnvironment", vector_entry_point=f"{__name__}:WorldVectorEnvironment")
