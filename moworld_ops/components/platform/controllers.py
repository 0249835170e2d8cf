"""Checks that the controllers behind TrainJobs run, by an object that they must react to: definitions stay when a controller is gone."""

import os
import threading
import time
import uuid
from contextlib import suppress
from functools import partial
from typing import Any

from moworld_ops.components.platform.cluster import REQUEST_SECONDS, own_pod, server_message, with_retries
from moworld_ops.components.platform.context import context
from moworld_ops.components.platform.trainjobs import GROUP, PART_OF, PLURAL, POLL_SECONDS, RUN, VERSION

FIELDS = ("activeDeadlineSeconds", "runtimePatches")  # of a TrainJob's spec, since Trainer 2.2
RESPOND = "Trainer and JobSet respond"
READS = 7  # of an object, after which a controller counts as absent: half a minute


def missing_fields(openapi: dict[str, Any]) -> list[str]:
    """Returns which of FIELDS the TrainJob in an OpenAPI document of its group lacks; all of them if it has no TrainJob."""
    kind = {"group": GROUP, "version": VERSION, "kind": "TrainJob"}
    schemas = openapi.get("components", {}).get("schemas", {}).values()
    found = [one for one in schemas if kind in one.get("x-kubernetes-group-version-kind", [])]
    known = found[0]["properties"]["spec"]["properties"] if found else {}
    return [field for field in FIELDS if field not in known]


def response_of_controllers(api: Any, space: str, runtime: str) -> str:
    """Creates a suspended TrainJob of a runtime, which starts no pod, and deletes it; returns RESPOND, or what did not respond."""
    from kubernetes import client

    custom, send = client.CustomObjectsApi(api), partial(with_retries, stop=threading.Event(), seconds=60.0)
    name, workflow = f"preflight-{uuid.uuid4().hex[:8]}", own_pod(api, space).workflow
    labels = {PART_OF: "moworld", RUN: context().run}
    metadata: dict[str, Any] = {"name": name, "labels": {key: value for key, value in labels.items() if value}}
    spec = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": runtime},
        "trainer": {"numNodes": 1, "numProcPerNode": 1},
        "suspend": True,
    }
    body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob", "metadata": metadata, "spec": spec}
    if workflow:
        metadata["ownerReferences"] = [workflow]
    wait = float(os.environ.get("MOWORLD_POLL_SECONDS", POLL_SECONDS))
    place = (GROUP, VERSION, space, PLURAL)
    options = {"_request_timeout": REQUEST_SECONDS}
    try:
        send(partial(custom.create_namespaced_custom_object, *place, body, field_validation="Strict", **options))
        for number in range(READS):
            time.sleep(wait if number else 0.0)
            status = send(partial(custom.get_namespaced_custom_object, *place, name, **options)).get("status", {})
            if status.get("jobsStatus"):  # Trainer copies them from the JobSet that it created
                return RESPOND
        gone = "JobSet's" if any(one["type"] == "Suspended" for one in status.get("conditions", [])) else "Trainer's"
        return f"{gone} controller did not respond within {(READS - 1) * wait:.0f} s"
    except (client.ApiException, ConnectionError) as error:
        return f"a TrainJob was refused: {server_message(error) if isinstance(error, client.ApiException) else error}"
    finally:
        with suppress(client.ApiException, ConnectionError):  # the reaper deletes it once the run is over
            send(partial(custom.delete_namespaced_custom_object, *place, name, **options))
