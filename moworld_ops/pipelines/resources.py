"""Section `resources` of a profile: what it needs of a machine, and the pools of its steps. Imports no kfp."""

from pydantic import Field

from moworld.model.settings import Device
from moworld.settings import Settings
from moworld_ops.components.platform.pools import Pool


class Launcher(Settings):
    """Requests and limits of a pod that checks the cluster, or launches TrainJobs and watches them. Its copies of inputs use the rest."""

    cpu: str = "100m"
    memory: str = "512Mi"
    cpu_limit: str = "2"
    memory_limit: str = "8Gi"


class Resources(Settings):
    """Needs of a local run, and the pool of each step. Locally a step on a pool of kind `torchrun` has its ranks, any other one process."""

    disk_bytes: int = Field(ge=0, le=10**18, description="free bytes that a local run needs at its start")
    pools: dict[str, Pool] = Field(default={})
    steps: dict[str, str | list[str]] = Field(default={}, description="step to pool, or to one pool per expert (high noise, low noise)")
    launcher: Launcher = Field(default=Launcher(), description="preflight, and the pods of steps whose work is in TrainJobs")
    machine: Device | None = Field(default=None, description="the machine of local runs, for 'moworld plan'")
    claim: str = "moworld-work"
    mount: str = "/mnt/moworld"
    store_secret: str = Field(
        default="", description="secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL; empty for none"
    )
    signing_secret: str = Field(default="", description="secret with signing.pem and signing.pub, for register and promote; empty for none")
    registry_secret: str = Field(
        default="", description="secret whose backend-store-uri is the URL of the database with the ledger, for register and promote; empty for none"
    )

    def pool_names(self, step: str) -> list[str]:
        """Returns the names of a step's pools: one, one per expert, or none."""
        chosen = self.steps.get(step, self.steps.get("default", []))
        return [chosen] if isinstance(chosen, str) else chosen

    def pools_of(self, step: str) -> list[Pool]:
        """Returns the pools of a step."""
        return [self.pools[name] for name in self.pool_names(step)]

    def used_pools(self) -> list[list[Pool]]:
        """Returns the pools of each step that the profile places, with the default."""
        return [self.pools_of(step) for step in self.steps]
