"""Several environments on one engine in this process: what `gymnasium.make_vec` makes unless another mode is given.

`vectorization_mode="sync"` shares the engine, too. With "async" every environment is in a worker process, and all are clients of one
server process (see `worlds`): useful if the environments themselves do much work, such as a reward that runs a network.
"""

from typing import TYPE_CHECKING, Any

from gymnasium.vector import SyncVectorEnv

from moworld.errors import InputError
from moworld.files import Pathlike
from moworld.inference.environment import WorldEnvironment

if TYPE_CHECKING:  # it loads PyTorch
    from moworld.inference.engine import Engine


class WorldVectorEnvironment(SyncVectorEnv):
    """`num_envs` environments on one engine. The arguments are those of `WorldEnvironment`.

    `step` requests all chunks before it waits for the first: one environment's chunk is denoised while another's is decoded.
    """

    environment: type[WorldEnvironment] = WorldEnvironment

    def __init__(self, num_envs: int, model: "Pathlike | Engine | None" = None, **settings: Any) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise InputError("environment", "num_envs", repr(num_envs), "an integer of at least 1", "correct it")
        super().__init__([lambda: self.environment(model, **settings)] * num_envs)

    def step(self, actions: Any) -> Any:
        """Steps all environments; one whose episode has ended is reset instead, as in Gymnasium."""
        worlds: list[Any] = self.envs
        for world, action in zip(worlds, actions, strict=True):
            if not world.ended:
                world.request(action)
        return super().step(actions)
