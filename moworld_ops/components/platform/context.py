"""The context of a step's process: which step of which run it is. Only this module reads these variables.

MOWORLD_CONTEXT is a `StepContext` as JSON. The compiler writes it into each task, so it has what is known then. What is known only when
the process starts completes it: MOWORLD_RUN, MOWORLD_NAMESPACE and MOWORLD_NODE, on a cluster from the pod's fields. The local engine sets MOWORLD_RUN,
and the run's record in the state folder has the rest.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moworld.errors import InputError, invalid_value
from moworld.files import read_json
from moworld.settings import NonNegativeFloat, NonNegativeInt, Settings
from moworld_ops.components.platform.home import home

CONTEXT, RUN, NAMESPACE, NODE, COMMIT = "MOWORLD_CONTEXT", "MOWORLD_RUN", "MOWORLD_NAMESPACE", "MOWORLD_NODE", "MOWORLD_GIT_COMMIT"
PARTITION = "MOWORLD_PARTITION"  # number of the partition that a step of a loop works on; the step sets it when it starts


class StepContext(Settings):
    """A step's place in its run; the defaults are those of a process outside a run.

    step:      name of the task, such as train_curriculum-2; of a step of a partition with its number, as collect-p03
    code:      digest of the code, for the cache of the local engine
    run:       name of the run; on a cluster its id
    namespace: of the pod; "" for a local run
    folder:    folder of a local run
    attempt:   number of the run's attempt, from 1
    commit:    of the code: in a local run its record's, on a cluster MOWORLD_GIT_COMMIT, which the compiler writes
    node:      name of Argo's node, such as w-1(0).root(0).collect(0).executor(1); "" outside a cluster
    image:     reference of its image, if it is not that of the lock
    continues: id of the run on the cluster whose checkpoints this run continues from; "" for none
    retries:   how often a failure is repeated in the pod
    retry_seconds: wait before the first repetition
    engine:    process that the step must not outlive (`steps.process_token`); "" for none
    """

    step: str = ""
    code: str = ""
    run: str = ""
    namespace: str = ""
    folder: Path | None = None
    attempt: NonNegativeInt = 1
    commit: str = ""
    engine: str = ""
    node: str = ""
    image: str = ""
    continues: str = ""
    retries: NonNegativeInt = 0
    retry_seconds: NonNegativeFloat = 60.0

    def text(self) -> str:
        """Returns the value of MOWORLD_CONTEXT: the fields that differ from their defaults, as JSON."""
        return self.model_dump_json(exclude_defaults=True)

    @property
    def checkpoints(self) -> str | None:
        """The folder of the step's checkpoints, in its run so that a resumed run finds them; None outside a local run."""
        return str(self.folder / "checkpoints" / self.step) if self.folder and self.step else None

    @property
    def run_id(self) -> str:
        """The run. Raises InputError outside a run."""
        if not self.run:
            raise InputError(RUN, "", "nothing", "the id of the run that this process belongs to", "compile the pipeline again")
        return self.run


def context() -> StepContext:
    """Returns the context of this process. Raises InputError if MOWORLD_CONTEXT is not one."""
    try:
        found = StepContext.model_validate_json(os.environ.get(CONTEXT) or "{}")
    except ValidationError as error:
        raise invalid_value(CONTEXT, error, "compile the pipeline again") from None
    late: dict[str, Any] = {"run": os.environ.get(RUN, ""), "namespace": os.environ.get(NAMESPACE, "")}
    late |= {"node": os.environ.get(NODE, ""), "commit": os.environ.get(COMMIT, "")}
    folder = home() / "runs" / late["run"]
    if late["run"] and (folder / "run.json").is_file():
        record = read_json(folder / "run.json")
        late |= {"folder": folder, "attempt": len(record.get("attempts", [])) or 1}
        late |= {"commit": record.get("git_commit", late["commit"]), "engine": record.get("engine_process", "")}
    made = StepContext(**{key: value for key, value in late.items() if value} | found.model_dump(exclude_unset=True))
    suffix = partition_suffix(os.environ.get(PARTITION, ""))
    return made if made.step.endswith(suffix) else made.model_copy(update={"step": made.step + suffix})


def partition_suffix(partition: str) -> str:
    """Returns what names of a partition's steps end with: -p03 for "3"; "" for ""."""
    return f"-p{int(partition):02d}" if partition else ""
