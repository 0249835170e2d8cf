"""A pipeline of three small steps in its own process, so that a test can kill it. Arguments: RUN_FOLDER JOURNAL MODE."""

import json
import os
import sys
from pathlib import Path

from kfp import dsl

from moworld_ops.pipelines.engine_local import execute
from moworld_ops.pipelines.placement import Local
from moworld_ops.pipelines.resources import Resources
from moworld_ops.pipelines.runs import Run


@dsl.component(base_image="python-test", install_kfp_package=False)
def work(out: dsl.Output[dsl.Dataset], journal: str, mode: str, before: dsl.Input[dsl.Dataset] = None):
    import errno
    import subprocess
    import time
    from pathlib import Path

    from moworld.errors import InputError
    from moworld_ops.components.platform.context import context
    from moworld_ops.components.platform.steps import Refused, recorded

    name = context().step
    if mode == "early" and name == "second":
        import no_such_module  # noqa: F401
    with recorded(out) as record:
        with open(journal, "a") as stream:
            stream.write(name + "\n")
        Path(out.path).mkdir(parents=True)
        Path(out.path, "half").write_text("half")
        fault = mode if name == "second" else "none"
        if fault == "hang-once" and not Path(journal + ".hung").exists():
            Path(journal + ".hung").write_text("")
            time.sleep(120)
        if fault == "bad":
            raise InputError("clip.mp4", "frame 3", "nothing", "a picture", "record it again")
        if fault == "full":
            raise OSError(errno.ENOSPC, "No space left on device", out.path)
        if fault == "no":
            raise Refused("gate speed: 3 < 16", {"gates": [1]})
        if fault == "orphan":
            subprocess.run(["sh", "-c", "sleep 600 & echo $!"])  # the shell ends, its child has no parent
            raise RuntimeError("a worker was terminated abruptly")
        if fault == "bug":
            raise KeyError("bug")
        if fault == "empty":
            Path(out.path, "half").unlink()
        else:
            Path(out.path, "half").rename(Path(out.path, "whole"))
        record({"count": 3, "before": before.path if before else ""})


def small(code: str = "1"):
    here = Local(code, Resources(disk_bytes=0))

    @dsl.pipeline(name="small")
    def graph(journal: str, mode: str):
        first = here(work(journal=journal, mode="none"), "first")
        second = here(work(journal=journal, mode=mode, before=first.outputs["out"]), "second")
        here(work(journal=journal, mode="none", before=second.outputs["out"]), "third")

    return graph


@dsl.component(base_image="python-test", install_kfp_package=False)
def measure(out: dsl.Output[dsl.Dataset], journal: str, mode: str, partition: str):
    import os
    import time
    from pathlib import Path

    from moworld_ops.components.platform.context import context
    from moworld_ops.components.platform.steps import recorded

    with recorded(out, partition=partition):
        with open(journal, "a") as stream:
            stream.write(f"{context().step} {os.environ['MOWORLD_CPU_SHARE']}\n")
        if mode == "hang":
            time.sleep(120)
        if partition == "1" and not Path(journal + ".failed").exists():
            Path(journal + ".failed").write_text("")
            raise KeyError("bug")
        Path(out.path).mkdir(parents=True)
        Path(out.path, "part").write_text(partition)


@dsl.component(base_image="python-test", install_kfp_package=False)
def merge(parts: dsl.Input[list[dsl.Dataset]], out: dsl.Output[dsl.Dataset], journal: str):
    from pathlib import Path

    from moworld_ops.components.platform.steps import recorded

    with recorded(out):
        with open(journal, "a") as stream:
            stream.write("merge\n")
        Path(out.path).mkdir(parents=True)
        Path(out.path, "whole").write_text("".join(Path(part.path, "part").read_text() for part in parts))


def looped(code: str = "1"):
    here = Local(code, Resources(disk_bytes=0))

    @dsl.pipeline(name="small")
    def graph(journal: str, mode: str):
        with dsl.ParallelFor(["0", "1", "2"], parallelism=2) as partition:
            measured = here(measure(journal=journal, mode=mode, partition=partition), "measure", 2)
        here(merge(parts=dsl.Collected(measured.outputs["out"]), journal=journal), "merge")

    return graph


def progress(name: str, record: dict) -> None:
    print(name, record["status"], file=sys.stderr, flush=True)  # kfp uses stdout while it runs


def main() -> int:
    folder, journal, mode = sys.argv[1:]
    run = Run(Path(folder))
    with run.locked():
        if not run.file.exists():
            run.update(run=run.name, pipeline="small", profile="none", status="running", started=0)
        made = looped() if mode.startswith("loop") else small()
        status = execute(made, {"journal": journal, "mode": mode.removeprefix("loop-")}, run, progress)
    print(json.dumps({"status": status, "pid": os.getpid()}))
    return int(run.record["exit"])


if __name__ == "__main__":
    sys.exit(main())
