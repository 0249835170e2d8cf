"""Checks of the cluster before a run: controllers, queues, runtimes, quota, nodes, claims, secrets, buckets, services, images, contracts."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from moworld.settings import NonNegativeInt, Settings
from moworld_ops.components.platform.artifact_store import location
from moworld_ops.components.platform.cluster import REQUEST_SECONDS, connect, namespace, with_retries
from moworld_ops.components.platform.controllers import FIELDS, RESPOND, missing_fields, response_of_controllers
from moworld_ops.components.platform.gangs import KUEUE
from moworld_ops.components.platform.image_checks import presence
from moworld_ops.data_contracts.load import load_contract

Row = dict[str, Any]
POSTGRESQL = 5432  # its port
BUILD = "build, push and lock it (images/README.md), or name your own (--images), then compile again"


class Nodes(Settings):
    """`count` nodes with these labels, each with `amount` of the allocatable `resource`."""

    selector: dict[str, str]
    resource: str
    amount: NonNegativeInt
    count: NonNegativeInt


class Pods(Settings):
    """`count` equal pods that exist at the same time, with what each of them requests and its limits."""

    count: NonNegativeInt
    requests: dict[str, str]
    limits: dict[str, str]


class Requirements(Settings):
    """What the runs of a compiled profile need; built by `moworld_ops.pipelines.placement.requirements_of`."""

    queues: list[str] = Field(default=[], description="of Volcano")
    local_queues: list[str] = Field(default=[], description="of Kueue, in the namespace of the runs")
    runtimes: list[str] = Field(default=[])
    claims: list[str] = Field(default=[])
    secrets: dict[str, list[str]] = Field(default={}, description="name to required keys")
    variables: dict[str, str] = Field(default={}, description="secret that no account may read, to a variable of this pod from it")
    database: str = Field(default="", description="variable of this pod with the URL of the registry's database; empty for none")
    nodes: list[Nodes] = Field(default=[])
    pods: list[list[Pods]] = Field(default=[], description="the pods of each step that differs in them; steps run one after the other")
    uris: list[str] = Field(default=[])
    artifacts: list[str] = Field(default=[], description="inputs that KFP itself fetches: minio://, s3://, gs:// as it names them")
    services: list[str] = Field(default=[])
    images: dict[str, str] = Field(default={}, description="name to reference")
    unpublished_images: list[str] = Field(default=[])
    unpinned_bases: list[str] = Field(default=[], description="bases of the images that have no digest")
    contracts: dict[str, str] = Field(default={}, description="name to version")


def checks(required: Requirements) -> list[Row]:
    """Returns a row per check: name, found, wanted, passed, mend (published keys of checks.json; mend is the fix).

    Raises ConnectionError if the API server does not respond for a minute.
    """
    cluster = _Cluster()
    rows = [_queue(cluster, name) for name in required.queues]
    rows += [_local_queue(cluster, name) for name in required.local_queues]
    if required.runtimes:
        rows.append(_trainer(cluster))
    for name in required.runtimes:
        rows.append(_runtime(cluster, name))
        if rows[-1]["passed"]:
            rows.append(_controllers(cluster, name))
    rows += [_claim(cluster, name) for name in required.claims]
    rows += [_secret(cluster, name, keys) for name, keys in required.secrets.items() if name not in required.variables]
    rows += [_variable(name, variable) for name, variable in required.variables.items()]
    if url := os.environ.get(required.database):
        address = urlsplit(url)
        place = f"{address.hostname}:{address.port or POSTGRESQL}"  # never the URL: it has a password
        rows.append(_reachable(f"database {place}", _connect, place, "a connection within 5 s"))
    rows += [_nodes(cluster, nodes) for nodes in required.nodes]
    rows += _quotas(cluster, required.pods)
    rows += [_reachable(f"bucket {uri}", _list, uri, "a folder that can be listed") for uri in required.uris]
    rows += [_reachable(f"artifact {uri}", partial(_list_artifact, cluster), uri, "an artifact in KFP's store") for uri in required.artifacts]
    rows += [_reachable(f"service {url}", _health, url, "a response within 5 s") for url in required.services]
    rows += [_image(cluster, name, reference, name in required.unpublished_images) for name, reference in required.images.items()]
    rows += [_row(f"image {name}", "never pushed", "a pushed digest", False, BUILD) for name in required.unpublished_images if not required.images]
    rows += [_row(f"base image {name}", "only a tag", "a digest", False, f"pin it, {BUILD}") for name in required.unpinned_bases]
    for name, version in required.contracts.items():
        found = load_contract(name).version
        fix = "run the image that was built from the commit that compiled this pipeline"
        rows.append(_row(f"contract {name}", found, version, found == version, fix))
    return rows


class _Cluster:
    """Reads objects of the API server by path."""

    def __init__(self) -> None:
        self.api, self.space, self.never = connect(), namespace(), threading.Event()

    def get(self, path: str) -> Any:
        """Returns the object, None if it does not exist, or {"forbidden": True}."""
        from kubernetes.client import ApiException

        options = {"response_type": "object", "auth_settings": ["BearerToken"], "_request_timeout": REQUEST_SECONDS}
        try:
            return with_retries(lambda: self.api.call_api(path, "GET", **options)[0], self.never, seconds=60.0)
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status == 403:
                return {"forbidden": True}
            raise

    def items(self, path: str) -> list[dict[str, Any]]:
        return list((self.get(path) or {}).get("items") or [])


def _row(name: str, found: Any, expected: Any, passed: bool, fix: str) -> Row:
    return {"name": name, "found": found, "wanted": expected, "passed": passed, "mend": fix}


def _presence(found: Any) -> str:
    return "nothing" if found is None else "no permission to read it" if found.get("forbidden") else "there"


def _queue(cluster: _Cluster, name: str) -> Row:
    found = cluster.get(f"/apis/scheduling.volcano.sh/v1beta1/queues/{name}")
    state = _presence(found)
    if state == "there":
        state = str(found.get("status", {}).get("state") or "no state, which Volcano's controllers write")
    fix = "apply the overlay of manifests/, open the queue, or check the pods of Volcano"
    return _row(f"queue {name}", state, "Open", state == "Open", fix)


def _local_queue(cluster: _Cluster, name: str) -> Row:
    found = cluster.get(f"/apis/{'/'.join(KUEUE)}/namespaces/{cluster.space}/localqueues/{name}")
    state = _presence(found)
    if state == "there":
        active = [one for one in found.get("status", {}).get("conditions", []) if one["type"] == "Active"]
        state = "no condition, which Kueue's controller writes" if not active else "Active" if active[0]["status"] == "True" else active[0]["message"]
    fix = "apply component kueue of manifests/, check its ClusterQueue, or the pods of Kueue"
    return _row(f"Kueue's queue {name}", state, "Active", state == "Active", fix)


def _trainer(cluster: _Cluster) -> Row:
    missing = missing_fields(cluster.get("/openapi/v3/apis/trainer.kubeflow.org/v1alpha1") or {})
    text = f"TrainJobs without {', '.join(missing)}" if missing else f"TrainJobs with {', '.join(FIELDS)}"
    return _row("Kubeflow Trainer", text, "2.2 or newer", not missing, "install it: older ones ignore these fields")


def _controllers(cluster: _Cluster, runtime: str) -> Row:
    found = response_of_controllers(cluster.api, cluster.space, runtime)
    fix = "check the pods of Kubeflow Trainer and JobSet, and their webhooks"
    return _row(f"controllers of runtime {runtime}", found, RESPOND, found == RESPOND, fix)


def _runtime(cluster: _Cluster, name: str) -> Row:
    state = _presence(cluster.get(f"/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/{name}"))
    return _row(f"runtime {name}", state, "a ClusterTrainingRuntime", state == "there", "apply the overlay of manifests/")


def _claim(cluster: _Cluster, name: str) -> Row:
    found = cluster.get(f"/api/v1/namespaces/{cluster.space}/persistentvolumeclaims/{name}")
    state, modes = _presence(found), (found or {}).get("spec", {}).get("accessModes", [])
    if state == "there":
        state = str(found.get("status", {}).get("phase"))
    passed = state == "Bound"
    if modes and "ReadWriteMany" not in modes:
        state, passed = f"{state}, {'/'.join(modes)}", False
    return _row(f"claim {name}", state, "Bound, ReadWriteMany", passed, "bind it to a storage class that many nodes can write to")


def _secret(cluster: _Cluster, name: str, keys: list[str]) -> Row:
    found = cluster.get(f"/api/v1/namespaces/{cluster.space}/secrets/{name}")
    state, missing = _presence(found), sorted(set(keys) - set((found or {}).get("data") or {}))
    if state == "there" and missing:
        state = f"no key {', '.join(missing)}"
    return _row(f"secret {name}", state, f"keys {', '.join(keys)}", state == "there", "fill the store that the ExternalSecret reads")


def _variable(name: str, variable: str) -> Row:
    passed = bool(os.environ.get(variable))
    return _row(f"secret {name}", "there" if passed else "nothing", "a value", passed, "fill the store that the ExternalSecret reads")


def _nodes(cluster: _Cluster, required: Nodes) -> Row:
    labels = [f"{key}={value}" for key, value in sorted(required.selector.items())]
    found = cluster.items(f"/api/v1/nodes?labelSelector={','.join(labels).replace('=', '%3D')}")
    usable = [node for node in found if not node.get("spec", {}).get("unschedulable") and _is_ready(node)]
    fit = [node for node in usable if int(node["status"].get("allocatable", {}).get(required.resource, 0)) >= required.amount]
    text = f"{len(fit)} of {len(found)} nodes with these labels are ready with {required.amount} {required.resource}"
    if len(usable) < len(found):
        text += f", {len(found) - len(usable)} are cordoned or not ready"
    fix = "add or uncordon nodes, check the device plugin, or change the pool"
    return _row(f"nodes {', '.join(labels)}", text, f"{required.count}", len(fit) >= required.count, fix)


def _is_ready(node: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"].get("conditions", []))


def _quotas(cluster: _Cluster, steps: list[list[Pods]]) -> Iterator[Row]:
    """Yields a row per quota of the namespace, with the resources of which less is free than a step needs."""
    needed: dict[str, float] = {}
    for pods in steps:
        for key, amount in quota_usage(pods).items():
            needed[key] = max(amount, needed.get(key, 0.0))
    for quota in cluster.items(f"/api/v1/namespaces/{cluster.space}/resourcequotas"):
        terms = quota.get("spec", {}).get("scopeSelector", {}).get("matchExpressions", [])
        if any(term["scopeName"] == "PriorityClass" and term["operator"] in ("In", "Exists") for term in terms):
            continue  # of pods with a priority class, which those of runs lack
        hard, used = quota.get("status", {}).get("hard", {}), quota.get("status", {}).get("used", {})
        free = {key: quantity(hard[key]) - quantity(used.get(key, "0")) for key in hard}
        lacking = [key for key in sorted(free) if free[key] < needed.get(key, 0.0)]
        short = [f"{key}: {_amount(key, free[key])} of {hard[key]} free, a step needs {_amount(key, needed[key])}" for key in lacking]
        fix = "end other work in the namespace, raise the quota, or use a smaller pool"
        yield _row(f"quota {quota['metadata']['name']}", "; ".join(short) or "enough free", "enough free", not short, fix)


def _amount(key: str, value: float) -> str:
    return f"{value / 2**30:g}Gi" if key.endswith("memory") else f"{value:g}"


def quota_usage(pods: list[Pods]) -> dict[str, float]:
    """Returns what pods that exist at the same time use, by the names that quotas have for it."""
    used: dict[str, float] = {"pods": sum(one.count for one in pods)}
    for one in pods:
        for kind, amounts in (("requests", one.requests), ("limits", one.limits)):
            for resource, amount in amounts.items():
                used[f"{kind}.{resource}"] = used.get(f"{kind}.{resource}", 0.0) + one.count * quantity(amount)
    other_names = {"count/pods": used["pods"]} | {name: used.get(f"requests.{name}", 0.0) for name in ("cpu", "memory")}
    return used | other_names


def quantity(text: str) -> float:
    """Returns a Kubernetes quantity as a number: "500m" is 0.5, "2Gi" is 2147483648."""
    from kubernetes.utils.quantity import parse_quantity

    return float(parse_quantity(text))


def _image(cluster: _Cluster, name: str, reference: str, unpublished: bool) -> Row:
    """Returns the row of an image. If no node has it and its registry does not answer, the lock decides: it records what was pushed."""
    found, there = presence(reference, cluster.items("/api/v1/nodes"))
    if there is None and unpublished:
        found = f"{found}; never pushed by the lock"
    passed = not unpublished if there is None else there
    return _row(f"image {name}", f"{found}: {reference}", "on a node, or in its registry", passed, BUILD)


def _reachable(name: str, call: Callable[[str], str], target: str, expected: str) -> Row:
    try:
        return _row(name, call(target), expected, True, "")
    except Exception as error:  # clients of stores have no common error type; the message is the finding
        found = " ".join(str(error).split())[:200] or type(error).__name__
        return _row(name, found, expected, False, "check address, permissions and network policy")


def _list(uri: str, options: dict[str, Any] | None = None) -> str:
    import fsspec

    system, path = fsspec.core.url_to_fs(uri, **(options or {}))
    if not system.exists(path):
        raise FileNotFoundError("nothing there")
    return "there"


def _list_artifact(cluster: _Cluster, uri: str) -> str:
    return _list(*location(uri, lambda path: cluster.get(f"/api/v1/namespaces/{cluster.space}/{path}")))


def _connect(place: str) -> str:
    host, _, port = place.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5):
        return "it accepts connections"


def _health(url: str) -> str:
    import requests

    requests.get(f"{url}/health", timeout=5).raise_for_status()
    return "it responds"
