"""Gymnasium environment on the serving engine: one step is one chunk of the world under one action.

    env = gymnasium.make("moworld.inference.environment:MoWorld-v0")
    envs = gymnasium.make_vec("moworld.inference.environment:MoWorld-v0", num_envs=4, model="models/pocket-long")

The model generates chunks (paper 5.2), so an action is held for a chunk, like frame skipping elsewhere. A generated world has no score:
the default task is to walk far, and a goal image or a function of your own makes another one. Importing this module loads neither PyTorch
nor a model. Vectors are in `vector_environment`, recording is in `recording`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from moworld.camera.cameras import resize_to_cover
from moworld.camera.controls import Walk
from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.inference.pictures import model_pictures
from moworld.inference.worlds import PendingChunk, Seat, find_worlds, model_path
from moworld.video import Frames

if TYPE_CHECKING:  # it loads PyTorch
    from moworld.inference.engine import Engine

Info = dict[str, Any]
Reward = Callable[[Frames, Info], float]
ID = "MoWorld-v0"
MAX_CHUNKS = 50  # of an episode: 600 frames of the model that comes along
GOAL_TOLERANCE = 0.03  # mean absolute difference at which a goal is reached; the codec alone causes about 0.02
AXES = (("w", "s"), ("d", "a"), ("l", "j"), ("i", "k"))  # keys of the values 1 and 2 of each number of an action; 0 is no key
DISCRETE = ("", "w", "s", "d", "a", "l", "j", "wl", "wj")  # keys of the actions 0 to 8 with actions="discrete"
OPTIONS = ("first_frame", "prompt", "goal")
MIN_SIDE, MAX_SIDE = 16, 8192  # pixels of a picture
MAX_PROMPT = 2000  # characters


def action_keys(action: Any, pitch: bool = True) -> str:
    """Returns the keys of an action of four numbers. Raises InputError for anything but four integers of 0 to 2.

    pitch: whether the last number, look up and down, may be other than 0
    """
    numbers = np.asarray(action)
    if numbers.shape != (len(AXES),) or numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() > 2:
        raise InputError("action", "", repr(action), "four integers of 0 to 2", "see WorldEnvironment.action_space")
    if numbers[-1] and not pitch:
        raise InputError("action", "look up and down", repr(action), "0, because the model has not learned it", "see WorldEnvironment.action_space")
    return "".join(("", *axis)[number] for axis, number in zip(AXES, numbers, strict=True))


class WorldEnvironment(gymnasium.Env[Frames, Any]):
    """Walk, strafe, turn and look up and down in a generated world.

    model:         a model folder, or an Engine shared by environments; None is the model that comes with a clone
    pictures:      first frames (H, W, 3) uint8, of which `reset` draws one; None uses those in the model folder
    max_chunks:    number of steps after which an episode is truncated; None never truncates
    reward:        reward(frames, info) -> float after each step, in place of the task's
    chunk_latents: latent frames of a chunk, 4 frames each; None uses the model's. Ignored with an Engine, which has its own
    device:        of a model folder, such as "cuda:1"; "" is this machine's accelerator, or the CPU
    actions:       "keys": MultiDiscrete([3, 3, 3, 3]): forward and back, right and left, turn right and left, look up and down; 0 is no
                   key; MultiDiscrete([3, 3, 3, 1]) if the model was not trained to look up and down (`pitch` in model_index.json).
                   "discrete": Discrete(9) of DISCRETE. A list of keys, such as ["", "w", "wl"]: Discrete of its length
    goal_tolerance: `goal_distance` at which an episode with a goal is terminated

    Observation: the newest frame, (H, W, 3) uint8 RGB. Info: `frames` (T, H, W, 3) uint8 of the chunk (after `reset` the first frame T
    times), `c2w` (4, 4), the camera pose in the world of the first frame, `distance`, how far the camera is from there in model units,
    and with a goal `goal_distance`, the mean absolute difference of the newest frame to it as a fraction of the full range.

    Tasks. Without a goal: walk far. The reward is by how much the largest `distance` of the episode has grown, as a fraction of the walk
    of one chunk straight ahead; it depends on the keys alone, because generated worlds have no walls that stop a camera. Such an episode
    is never terminated. With a goal: the reward is minus `goal_distance`, and the episode is terminated at `goal_tolerance`.

    Options of `reset`: `first_frame` and `goal` (H, W, 3) uint8, 16 to 8192 pixels a side, `prompt`. An episode is a function of seed and
    options: the seed draws the picture and the noise of every chunk.

    Memory: environments of one process share the model, and so do those in worker processes of one program (see `worlds`).
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012  Gymnasium reads it from the class

    def __init__(
        self,
        model: "Pathlike | Engine | None" = None,
        *,
        render_mode: str | None = None,
        pictures: Sequence[Frames] | None = None,
        max_chunks: int | None = MAX_CHUNKS,
        reward: Reward | None = None,
        chunk_latents: int | None = None,
        device: str = "",
        actions: str | Sequence[str] = "keys",
        goal_tolerance: float = GOAL_TOLERANCE,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise InputError("environment", "render_mode", render_mode, "rgb_array or None", "record the frames of info yourself")
        _check_task(max_chunks, reward, goal_tolerance)
        choices = _choices(actions)
        self.worlds = find_worlds(model, chunk_latents, device)
        self.action_space, self._choices = _action_space(choices, self.worlds.facts.pitch), choices
        facts, of_folder = self.worlds.facts, model is None or isinstance(model, str | Path)
        found = model_pictures(model_path(model)) if pictures is None and of_folder else list(pictures or [])  # type: ignore[arg-type]
        self.pictures = [_checked(f"pictures[{index}]", picture) for index, picture in enumerate(found)]
        self.render_mode, self.max_chunks, self.reward, self.goal_tolerance = render_mode, max_chunks, reward, goal_tolerance
        self.chunk_frames = facts.chunk_frames
        self.metadata = {**self.metadata, "render_fps": facts.fps / facts.chunk_frames, "frame_fps": facts.fps}
        self.size_hw = facts.height, facts.width
        self.observation_space = Box(0, 255, (*self.size_hw, 3), np.uint8)
        self.chunks, self.ended, self._farthest = 0, False, 0.0
        self._seat: Seat | None = None if of_folder else self.worlds.admit()
        self._goal: Frames | None = None
        self._frame: Frames | None = None
        self._requested: PendingChunk | None = None

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frames, Info]:
        """Opens a world (see the class for options). Raises InputError for unknown or invalid options and if there is no picture."""
        super().reset(seed=seed)
        if self._requested is not None:  # a vector of environments may have failed between request and step
            self._requested.exception()
            self._requested = None
        first_frame, prompt, goal = _checked_options({} if options is None else options)
        noise = int(self.np_random.integers(2**31))
        if first_frame is None:
            if not self.pictures:
                fix = 'pass pictures=[...], or options={"first_frame": ...} to reset'
                raise InputError("environment", "pictures", "none", "a picture to start from", fix)
            first_frame = self.pictures[int(self.np_random.integers(len(self.pictures)))]
        self._goal = None if goal is None else resize_to_cover(goal, self.size_hw)
        if self._seat is None:
            self._seat = self.worlds.admit()
        frames = self._seat.open(first_frame, prompt, noise).result().frames
        self.chunks, self.ended, self._farthest = 0, False, 0.0
        return self._observe(np.repeat(frames, self.chunk_frames, axis=0))

    def request(self, action: Any) -> None:
        """Starts the chunk that the next `step` returns. Raises InputError for an invalid action and before `reset`."""
        keys = self.keys(action)
        if self._seat is None or self._frame is None:
            raise InputError("environment", "", "a step before the first reset", "an open world", "call reset() first")
        self._requested = self._seat.step([keys] * self.chunk_frames)

    def keys(self, action: Any) -> str:
        """Returns the keys of an action. Raises InputError for one that is not in `action_space`."""
        if self._choices is None:
            return action_keys(action, self.worlds.facts.pitch)
        number = np.asarray(action)
        if number.shape != () or number.dtype.kind not in "iu" or not 0 <= number < len(self._choices):
            raise InputError("action", "", repr(action), f"an integer of 0 to {len(self._choices) - 1}", "see WorldEnvironment.action_space")
        return self._choices[int(number)]

    def step(self, action: Any) -> tuple[Frames, float, bool, bool, Info]:
        """Holds an action for a chunk. Raises InputError for an invalid action and before `reset`."""
        if self._requested is None:
            self.request(action)
        requested, self._requested = self._requested, None
        assert requested is not None
        frames = requested.result().frames
        self.chunks += 1
        frame, info = self._observe(frames)
        reward = self._task_reward(info) if self.reward is None else float(self.reward(frames, info))
        terminated = self._reached(info)
        truncated = self.max_chunks is not None and self.chunks >= self.max_chunks
        self.ended = terminated or truncated
        return frame, reward, terminated, truncated, info

    def render(self) -> Frames | None:  # type: ignore[override]
        """Returns the newest frame, (H, W, 3) uint8 RGB; None without render_mode."""
        return None if self.render_mode is None or self._frame is None else self._frame.copy()

    def close(self) -> None:
        """Frees the world, and the model if no other environment uses it. `reset` opens it again."""
        if self._seat is not None:
            self._seat.release()
        self._seat = self._frame = self._requested = None
        self.worlds.close()

    def _observe(self, frames: Frames) -> tuple[Frames, Info]:
        assert self._seat is not None
        self._frame, c2w = frames[-1].copy(), self._seat.c2w
        info: Info = {"frames": frames, "c2w": c2w, "distance": float(np.linalg.norm(c2w[:3, 3]))}
        if self._goal is not None:
            info["goal_distance"] = float(np.abs(self._frame.astype(np.float64) - self._goal).mean() / 255)
        return self._frame.copy(), info

    def _reached(self, info: Info) -> bool:
        """Returns whether the goal is reached, so that the episode is terminated."""
        return bool(info.get("goal_distance", np.inf) <= self.goal_tolerance)

    def _task_reward(self, info: Info) -> float:
        """Returns the reward of the class's tasks, and keeps the largest distance."""
        before, self._farthest = self._farthest, max(self._farthest, info["distance"])
        if "goal_distance" in info:
            return -float(info["goal_distance"])
        return float((self._farthest - before) / (self.worlds.facts.move_units * self.chunk_frames))


def _check_task(max_chunks: Any, reward: Any, goal_tolerance: Any) -> None:
    whole = isinstance(max_chunks, int | np.integer) and not isinstance(max_chunks, bool)
    if max_chunks is not None and not (whole and max_chunks > 0):
        raise InputError("environment", "max_chunks", repr(max_chunks), "an integer of at least 1, or None", "omit it")
    if reward is not None and not callable(reward):
        raise InputError("environment", "reward", repr(reward)[:80], "a function of frames and info, or None", "omit it")
    if isinstance(goal_tolerance, bool) or not isinstance(goal_tolerance, int | float) or not 0 <= goal_tolerance <= 1:
        raise InputError("environment", "goal_tolerance", repr(goal_tolerance)[:80], "a number of 0 to 1", "omit it")


def _choices(actions: Any) -> list[str] | None:
    """Returns the keys of every action of a discrete space; None for "keys"."""
    expected = '"keys", "discrete" or a list of keys, such as ["", "w", "wl"]'
    if isinstance(actions, str):
        if actions not in ("keys", "discrete"):
            raise InputError("environment", "actions", repr(actions)[:80], expected, "omit it")
        if actions == "keys":
            return None
        actions = DISCRETE
    if not isinstance(actions, Sequence) or not actions or not all(isinstance(keys, str) for keys in actions):
        raise InputError("environment", "actions", repr(actions)[:80], expected, "omit it")
    Walk().go(actions)  # raises for unknown keys, and for keys that cancel each other
    return list(actions)


def _action_space(choices: list[str] | None, pitch: bool) -> Any:
    """Returns the space of some choices, or of AXES. Raises InputError for keys that look up and down without `pitch`."""
    if choices is None:
        return MultiDiscrete([3, 3, 3, 3 if pitch else 1])
    if not pitch and (found := next((keys for keys in choices if set(keys) & set("ik")), "")):
        fix = "omit the keys i and k, or use a model with `pitch` in its model_index.json"
        raise InputError("environment", "actions", repr(found), "keys that the model has learned: it does not look up and down", fix)
    return Discrete(len(choices))


def _checked_options(options: Any) -> tuple[Frames | None, str, Frames | None]:
    """Returns first frame, prompt and goal of the options of `reset`. Raises InputError for others and for invalid values."""
    if not isinstance(options, dict):
        raise InputError("environment", "options", type(options).__name__, "a dictionary or None", "omit it")
    if unknown := sorted(str(name) for name in options if name not in OPTIONS):
        raise InputError("environment", "options", ", ".join(unknown), f"some of {', '.join(OPTIONS)}", "omit it")
    prompt = options.get("prompt", "")
    if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT:
        found = f"{len(prompt)} characters" if isinstance(prompt, str) else f"{type(prompt).__name__} {prompt!r}"[:80]
        raise InputError("environment", "prompt", found, f"text of at most {MAX_PROMPT} characters", 'pass "" for no prompt')
    first, goal = (_checked(name, options[name]) if name in options else None for name in ("first_frame", "goal"))
    return first, prompt, goal


def _checked(name: str, picture: Any) -> Frames:
    """Returns a picture as an array. Raises InputError unless it is (H, W, 3) uint8 with sides within the bounds."""
    expected = f"(H, W, 3) uint8, {MIN_SIDE} to {MAX_SIDE} pixels a side"
    try:
        array = np.asarray(picture)
    except (ValueError, TypeError) as error:
        raise InputError("environment", name, f"{type(picture).__name__} ({error})"[:120], expected, "convert the image to RGB") from None
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InputError("environment", name, f"{array.shape} {array.dtype}", expected, "convert the image to RGB")
    if not (min(array.shape[:2]) >= MIN_SIDE and max(array.shape[:2]) <= MAX_SIDE):
        raise InputError("environment", name, f"{array.shape[1]}x{array.shape[0]} pixels", expected, "resize it")
    return array


if ID not in gymnasium.registry:
    vectors = "moworld.inference.vector_environment:WorldVectorEnvironment"
    gymnasium.register(ID, f"{__name__}:WorldEnvironment", vector_entry_point=vectors)
