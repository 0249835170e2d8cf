"""Deletes the TrainJobs of runs that are cancelled, over or deleted, so that they hold no accelerators.

`python -m moworld_ops.components.platform.reaper` does so every ten seconds. It reads the runs' Workflow objects, so it needs the
API server and nothing else: neither Kubeflow Pipelines nor a launcher that still responds.
"""

import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from moworld_ops.components.platform.cluster import REQUEST_SECONDS, connect, namespace, with_retries
from moworld_ops.components.platform.trainjobs import GROUP, PART_OF, PLURAL, RUN, VERSION, delete_job
from moworld_ops.components.platform.workflows import working_runs

SECONDS = 10.0  # between two passes
THREADS = 16  # deletions at the same time: answers may take a second each


def reap(api: Any, space: str) -> list[str]:
    """Deletes the TrainJobs whose run is cancelled, over or deleted, and returns their names."""
    from kubernetes import client

    custom = client.CustomObjectsApi(api)
    send = partial(with_retries, stop=threading.Event(), seconds=30.0)
    options = {"label_selector": f"{PART_OF}=moworld", "_request_timeout": REQUEST_SECONDS}
    jobs = send(partial(custom.list_namespaced_custom_object, GROUP, VERSION, space, PLURAL, **options))["items"]
    working = working_runs(api, space)  # after the jobs, so a run that starts now has its Workflow here

    def delete(job: dict[str, Any]) -> str:
        delete_job(custom, space, job, send)
        return str(job["metadata"]["name"])

    runs = [(job, job["metadata"].get("labels", {}).get(RUN, "")) for job in jobs if "deletionTimestamp" not in job["metadata"]]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(delete, [job for job, run in runs if run and run not in working]))


def main() -> None:
    """Reaps until SIGTERM. Errors of the API server are printed, and the next pass tries again."""
    from kubernetes.client import ApiException

    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    api, space = connect(), namespace()
    while True:
        try:
            for name in reap(api, space):
                print(f"TrainJob {space}/{name} deleted: its run is cancelled, over or deleted", flush=True)
        except (ConnectionError, ApiException) as error:
            print(" ".join(f"the next pass tries again: {error}".split()), file=sys.stderr, flush=True)
        time.sleep(SECONDS)


if __name__ == "__main__":
    main()
