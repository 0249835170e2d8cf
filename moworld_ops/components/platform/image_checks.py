"""Looks for an image on the nodes and in its registry, for preflight."""

import re
from collections.abc import Iterable
from typing import Any

ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in ("oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2")
)
SECONDS = (3.05, 5.0)


def presence(reference: str, nodes: Iterable[dict[str, Any]]) -> tuple[str, bool | None]:
    """Returns what was found of an image, and True if it exists, False if its registry has none, None if neither could answer.

    nodes: of the cluster, as the API server returns them; a node lists up to 50 of its images
    """
    listed = [{name for one in node.get("status", {}).get("images") or [] for name in one.get("names") or []} for node in nodes]
    if found := sum(reference in names for names in listed):
        return f"on {found} of {len(listed)} nodes", True
    return _request(reference)


def _request(reference: str) -> tuple[str, bool | None]:
    """Requests the manifest from the registry, by http if it is on this machine."""
    import requests

    host, repository, version = split(reference)
    scheme = "http" if re.match(r"(localhost|127\.0\.0\.1)(:|$)", host) else "https"
    url = f"{scheme}://{host}/v2/{repository}/manifests/{version}"
    try:
        answer = requests.head(url, headers={"Accept": ACCEPT}, timeout=SECONDS, allow_redirects=True)
    except requests.RequestException as error:
        return f"on no node, and {host} does not answer this pod ({type(error).__name__})", None
    if answer.status_code == 200:
        return f"in {host}", True
    if answer.status_code in (401, 403):
        return f"on no node, and {host} requires credentials that this pod does not have", None
    return f"on no node, and {host} answers {answer.status_code}", False


def split(reference: str) -> tuple[str, str, str]:
    """Returns host, repository and tag or digest of an image reference."""
    name, at, digest = reference.partition("@")
    host, slash, repository = name.partition("/")
    if not slash or not re.search(r"[.:]|^localhost$", host):
        host, repository = "registry-1.docker.io", name if slash else f"library/{name}"
    if at:
        return host, repository, digest
    repository, colon, tag = repository.partition(":")
    return host, repository, tag if colon else "latest"
