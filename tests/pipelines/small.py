"""A pipeline of three small steps, run as a process of its own so that a test can kill it: RUN_FOLDER JOURNAL MODE."""

import json
import os
import sys
from pathlib import Path

from kfp import dsl

from pipelines.engine_local import execute
from pipelines.placement import Here
from pipelines.runs import Run


@dsl.component(base_image="python-test", install_kfp_package=False)
def work(out: dsl.Output[dsl.Dataset], journal: str, mode: str, before: dsl.Input[dsl.Dataset] = None):
    import errno
    import os
    import time
    from pathlib import Path

    from components.platform.steps import Refused, recorded
    from moworld.errors import InputError

    name = os.environ["MOWORLD_STEP"]
    if mode == "early" and name == "second":
        import no_such_module  # noqa: F401
    with recorded(out) as record:
        with open(journal, "a") as stream:
            stream.write(name + "\n")
        Path(out.path).mkdir(parents=True)
        Path(out.path, "half").write_text("half")
        trouble = mode if name == "second" else "none"
        if trouble == "hang-once" and not Path(journal + ".hung").exists():
            Path(journal + ".hung").write_text("")
            time.sleep(120)
        if trouble == "bad":
            raise InputError("clip.mp4", "frame 3", "nothing", "a picture", "record it again")
        if trouble == "full":
            raise OSError(errno.ENOSPC, "No space left on device", out.path)
        if trouble == "no":
            raise Refused("gate speed: 3 < 16", {"gates": [1]})
        if trouble == "bug":
            raise KeyError("bug")
        if trouble == "empty":
            Path(out.path, "half").unlink()
        else:
            Path(out.path, "half").rename(Path(out.path, "whole"))
        record({"count": 3, "before": before.path if before else ""})


def small(code: str = "1"):
    here = Here(code)

    @dsl.pipeline(name="small")
    def graph(journal: str, mode: str):
        first = here(work(journal=journal, mode="none"), "first")
        second = here(work(journal=journal, mode=mode, before=first.outputs["out"]), "second")
        here(work(journal=journal, mode="none", before=second.outputs["out"]), "third")

    return graph


def progress(name: str, record: dict) -> None:
    print(name, record["status"], file=sys.stderr, flush=True)  # stdout is kfp's while it runs


def main() -> int:
    folder, journal, mode = sys.argv[1:]
    run = Run(Path(folder))
    with run.locked():
        if not run.file.exists():
            run.update(run=run.name, pipeline="small", profile="none", status="running", started=0)
        status = execute(small(), {"journal": journal, "mode": mode}, run, progress)
    print(json.dumps({"status": status, "pid": os.getpid()}))
    return int(run.record["exit"])


if __name__ == "__main__":
    sys.exit(main())
