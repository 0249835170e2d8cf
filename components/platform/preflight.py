"""What a run needs of its cluster, each thing looked at once: queues, runtimes, quota, nodes, claims, secrets, buckets, services, images, contracts."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import Field

from components.platform.cluster import REQUEST_SECONDS, connect, namespace, patiently
from data_contracts.load import load_contract
from moworld.settings import Settings

Row = dict[str, Any]


class Nodes(Settings):
    """`count` nodes with these labels, each with `amount` of `resource` to allocate."""

    selector: dict[str, str]
    resource: str
    amount: int
    count: int


class Wanted(Settings):
    """What a compiled profile stands on; made by `pipelines.placement.wanted_of`."""

    queues: list[str] = Field(default=[])
    runtimes: list[str] = Field(default=[])
    claims: list[str] = Field(default=[])
    secrets: dict[str, list[str]] = Field(default={}, description="name to the keys that are read")
    nodes: list[Nodes] = Field(default=[])
    uris: list[str] = Field(default=[])
    services: list[str] = Field(default=[])
    unpublished_images: list[str] = Field(default=[])
    unpinned_bases: list[str] = Field(default=[], description="bases of the images that no digest pins")
    contracts: dict[str, str] = Field(default={}, description="name to version")


def checks(wanted: Wanted) -> list[Row]:
    """A row per check: name, found, wanted, passed, mend. Raises ConnectionError when the API server gives no answer for a minute."""
    cluster = _Cluster()
    rows: list[Row] = []
    for name in wanted.queues:
        rows.append(_queue(cluster, name))
    for name in wanted.runtimes:
        found = cluster.get("/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/" + name)
        rows.append(
            _row(f"runtime {name}", _there(found), "a ClusterTrainingRuntime", _there(found) == "there", "apply the overlay of manifests/")
        )
    for name in wanted.claims:
        rows.append(_claim(cluster, name))
    for name, keys in wanted.secrets.items():
        rows.append(_secret(cluster, name, keys))
    rows += _nodes(cluster, wanted.nodes) + list(_quota(cluster))
    rows += [_answers(f"bucket {uri}", lambda uri=uri: _listed(uri), "a folder that can be listed") for uri in wanted.uris]  # type: ignore[misc]
    rows += [_answers(f"service {url}", lambda url=url: _health(url), "an answer within 5 s") for url in wanted.services]  # type: ignore[misc]
    for name in wanted.unpublished_images:
        rows.append(
            _row(
                f"image {name}", "never pushed", "a pushed digest", False, "build, push and lock it (images/README.md), then compile again"
            )
        )
    for name in wanted.unpinned_bases:
        mend = "pin it, build, push and lock (images/README.md), then compile again"
        rows.append(_row(f"base image {name}", "only a tag", "a digest", False, mend))
    for name, version in wanted.contracts.items():
        have = load_contract(name).version
        mend = "run the image that was built from the commit that compiled this pipeline"
        rows.append(_row(f"contract {name}", have, version, have == version, mend))
    return rows


class _Cluster:
    """Reads of the API server by path; None for what is not there."""

    def __init__(self) -> None:
        self.api, self.space, self.never = connect(), namespace(), threading.Event()

    def get(self, path: str) -> Any:
        from kubernetes.client import ApiException

        def ask() -> Any:
            return self.api.call_api(path, "GET", response_type="object", auth_settings=["BearerToken"], _request_timeout=REQUEST_SECONDS)[
                0
            ]

        try:
            return patiently(ask, self.never, seconds=60.0)
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status == 403:
                return {"forbidden": True}
            raise

    def items(self, path: str) -> list[dict[str, Any]]:
        return list((self.get(path) or {}).get("items") or [])


def _row(name: str, found: Any, wanted: Any, passed: bool, mend: str) -> Row:
    return {"name": name, "found": found, "wanted": wanted, "passed": passed, "mend": mend}


def _there(found: Any) -> str:
    return "nothing" if found is None else "no right to read it" if found.get("forbidden") else "there"


def _queue(cluster: _Cluster, name: str) -> Row:
    found = cluster.get(f"/apis/scheduling.volcano.sh/v1beta1/queues/{name}")
    state = str((found or {}).get("status", {}).get("state") or "Open")
    text = _there(found) if found is None or found.get("forbidden") else state
    return _row(f"queue {name}", text, "an open Volcano queue", text == "Open", "apply the overlay of manifests/, or open the queue")


def _claim(cluster: _Cluster, name: str) -> Row:
    found = cluster.get(f"/api/v1/namespaces/{cluster.space}/persistentvolumeclaims/{name}")
    phase = _there(found) if found is None or found.get("forbidden") else str(found.get("status", {}).get("phase"))
    modes = (found or {}).get("spec", {}).get("accessModes", [])
    shared = "ReadWriteMany" in modes or not modes
    text = phase if shared else f"{phase}, {'/'.join(modes)}"
    return _row(
        f"claim {name}", text, "Bound, ReadWriteMany", phase == "Bound" and shared, "bind it to a storage class that many nodes may write"
    )


def _secret(cluster: _Cluster, name: str, keys: list[str]) -> Row:
    found = cluster.get(f"/api/v1/namespaces/{cluster.space}/secrets/{name}")
    missing = sorted(set(keys) - set((found or {}).get("data") or {}))
    text = _there(found) if found is None or found.get("forbidden") else f"no key {', '.join(missing)}" if missing else "there"
    return _row(f"secret {name}", text, f"keys {', '.join(keys)}", text == "there", "fill the store that the ExternalSecret reads")


def _nodes(cluster: _Cluster, wanted: list[Nodes]) -> list[Row]:
    rows = []
    for want in wanted:
        selector = ",".join(f"{key}%3D{value}" for key, value in sorted(want.selector.items()))
        found = cluster.items(f"/api/v1/nodes?labelSelector={selector}")
        fit = [node for node in found if int(node["status"].get("allocatable", {}).get(want.resource, 0)) >= want.amount]
        text = f"{len(fit)} of {len(found)} nodes with these labels have {want.amount} {want.resource}"
        labels = ", ".join(f"{key}={value}" for key, value in sorted(want.selector.items()))
        rows.append(
            _row(
                f"nodes {labels}", text, f"{want.count}", len(fit) >= want.count, "add nodes, look at the device plugin, or change the pool"
            )
        )
    return rows


def _quota(cluster: _Cluster) -> Iterator[Row]:
    """Each quota of the namespace: what is used up."""
    for quota in cluster.items(f"/api/v1/namespaces/{cluster.space}/resourcequotas"):
        hard, used = quota.get("status", {}).get("hard", {}), quota.get("status", {}).get("used", {})
        full = sorted(key for key in hard if key in used and quantity(used[key]) >= quantity(hard[key]) > 0)
        text = f"used up: {', '.join(full)}" if full else "room left"
        yield _row(f"quota {quota['metadata']['name']}", text, "room left", not full, "end other work in the namespace, or raise the quota")


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number: "500m" 0.5, "2Gi" 2147483648."""
    from kubernetes.utils.quantity import parse_quantity

    return float(parse_quantity(text))


def _answers(name: str, ask: Callable[[], str], wanted: str) -> Row:
    try:
        return _row(name, ask(), wanted, True, "")
    except Exception as error:  # the stores' own errors have no common kind; what they say is the finding
        said = " ".join(str(error).split())[:200] or type(error).__name__
        return _row(name, said, wanted, False, "check address, rights and network policy")


def _listed(uri: str) -> str:
    import fsspec

    system, path = fsspec.core.url_to_fs(uri)
    if not system.exists(path):
        raise FileNotFoundError("nothing there")
    return "there"


def _health(url: str) -> str:
    import requests

    answer = requests.get(f"{url}/health", timeout=5)
    answer.raise_for_status()
    return "it answers"
