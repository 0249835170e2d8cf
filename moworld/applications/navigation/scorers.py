"""How far a goal is from what is seen: the head's estimate, the difference of pictures without training, or the engine's truth."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moworld.applications.navigation.head import NavigationHead
from moworld.applications.navigation.tasks import Task, angle_between
from moworld.data.settings import GameSettings

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]
Scorer = Callable[[list[Any], Task], Array]  # what is seen, and the task -> frames to the goal
BLUR = 9  # pixels


def pixel_scorer(pictures: list[Frames], task: Task) -> Array:
    """Returns the mean absolute difference of blurred pictures to that of the goal. Needs no training; the scale is not frames."""
    blurred = [cv2.GaussianBlur(picture, (BLUR, BLUR), 0).astype(np.float64) for picture in [task.picture, *pictures]]
    return np.array([np.abs(picture - blurred[0]).mean() for picture in blurred[1:]])


@dataclass(frozen=True, eq=False)
class HeadScorer:
    """The frames to the goal that the head estimates from pictures."""

    head: NavigationHead

    def __call__(self, pictures: list[Frames], task: Task) -> Array:
        return self.head.estimate(pictures, task.picture).frames


@dataclass(frozen=True)
class PlaceScorer:
    """The true frames to the goal from places, along the level's floor: walking and turning one after the other."""

    game: GameSettings

    def __call__(self, places: list[Any], task: Task) -> Array:
        goal, to_goal = task.truth()
        ways = [to_goal.length(x, y) / self.game.units_per_frame for x, y, _ in places]
        turns = [angle_between(angle, goal[2]) / self.game.yaw_degrees_per_frame for *_, angle in places]
        return np.asarray(ways) + np.asarray(turns)
