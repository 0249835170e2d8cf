"""The head: from a picture and the goal's picture to the goal's pose in the picture's camera, and to the frames that the way there takes.

Temporal distance and relative pose, as in GNM and NoMaD; small enough to score hundreds of imagined pictures a second on one core.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from moworld.errors import InputError
from moworld.files import Pathlike, atomic_folder, read_json_object, write_json

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]
WEIGHTS = "model.safetensors"
NAME = "NavigationHead"
LENGTH = 12 / 54  # model units of an output of 1: what a chunk of walking covers
FRAMES = 24.0  # frames to the goal of an output of 1
OUTPUTS = 5


@dataclass(frozen=True, eq=False)
class Estimate:
    """Where goals are in the cameras of N pictures: right and ahead (N, 2) in model units, degrees to the right (N,), frames to them (N,)."""

    position: Array
    yaw_degrees: Array
    frames: Array


class NavigationHead(nn.Module):
    """Features of both pictures at an eighth of their size, correlated at all pairs of positions, and convolutions over the result.

    size_hw: of the pictures, multiples of 16
    """

    positions: Tensor

    def __init__(self, size_hw: tuple[int, int], width: int = 32) -> None:
        super().__init__()
        self.size_hw, self.width = size_hw, width
        rows, columns = size_hw[0] // 8, size_hw[1] // 8
        channels = [3, width // 2, width, width + width // 2]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.SiLU()]
        self.encoder = nn.Sequential(*layers)
        joined = rows * columns + 2 * channels[-1] + 2
        self.join = nn.Sequential(
            nn.Conv2d(joined, 2 * width, 3, padding=1), nn.SiLU(), nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1), nn.SiLU()
        )
        self.out = nn.Sequential(
            nn.Linear(2 * width * ((rows + 1) // 2) * ((columns + 1) // 2), 4 * width), nn.SiLU(), nn.Linear(4 * width, OUTPUTS)
        )
        y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
        self.register_buffer("positions", torch.stack([x, y]), persistent=False)

    def forward(self, pictures: Tensor, goals: Tensor) -> Tensor:
        """Returns (N, 5) of pictures and goals (N, 3, H, W) in [-1, 1]: right and ahead in LENGTH, sine and cosine of the angle to the right,
        and log(1 + frames / FRAMES)."""
        count = len(pictures)
        features = self.encoder(torch.cat([pictures, goals]))
        here, there = features.split(count)
        first, second = (functional.normalize(part.flatten(2), dim=1) for part in (here, there))
        correlation = (second.transpose(1, 2) @ first).unflatten(2, here.shape[2:])  # (N, positions of the goal, h, w)
        positions = self.positions.expand(count, -1, -1, -1)
        return self.out(self.join(torch.cat([correlation, here, there, positions], dim=1)).flatten(1))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def estimate(self, pictures: list[Frames], goal: Frames) -> Estimate:
        """Returns where the goal's picture (H, W, 3) uint8 is seen from each of N pictures of the same size."""
        stack = as_pictures(np.stack(pictures))
        out = self(stack, as_pictures(goal[None]).expand_as(stack)).double().numpy()
        yaw = np.degrees(np.arctan2(out[:, 2], out[:, 3]))
        return Estimate(out[:, :2] * LENGTH, yaw, np.maximum(0, np.expm1(out[:, 4])) * FRAMES)

    def save(self, folder: Pathlike, **record: Any) -> None:
        """Writes config.json, with `record` in it, and the weights into a folder."""
        with atomic_folder(folder) as target:
            write_json(target / "config.json", {"_class_name": NAME, "size_hw": list(self.size_hw), "width": self.width, **record})
            save_file({key: value.contiguous() for key, value in self.state_dict().items()}, target / WEIGHTS)

    @staticmethod
    def load(folder: Pathlike, size_hw: tuple[int, int] | None = None) -> "NavigationHead":
        """Reads a folder. Raises InputError if it holds no head, or one for pictures of another size."""
        path, fix = Path(folder) / "config.json", "train a head: moworld apply navigate MODEL --train"
        if not path.is_file():
            raise InputError(folder, "config.json", "no such file", "the folder of a navigation head", fix)
        config = read_json_object(path)
        size, width = config.get("size_hw", []), config.get("width", 0)
        whole = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and 16 <= side <= 4096 for side in size)
        if config.get("_class_name") != NAME or not whole or not isinstance(width, int) or not 4 <= width <= 256:
            raise InputError(path, "", config.get("_class_name"), f"the configuration of a {NAME}", fix)
        if size_hw is not None and tuple(size) != size_hw:
            raise InputError(path, "size_hw", f"{size[1]}x{size[0]}", f"{size_hw[1]}x{size_hw[0]}, the model's size", fix)
        try:
            head = NavigationHead((size[0], size[1]), width)
            head.load_state_dict(load_file(Path(folder) / WEIGHTS))
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise InputError(folder, WEIGHTS, str(error).splitlines()[0][:200], "the weights that config.json describes", fix) from None
        return head.eval()


def as_pictures(frames: Frames) -> Tensor:
    """Converts (N, H, W, 3) uint8 to (N, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
