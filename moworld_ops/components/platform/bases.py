"""Base images of the Dockerfiles, and the digests that their registries return for them.

A Dockerfile names its base in an ARG before FROM. `images/bases.json` has the value of each such argument, with a digest after `pin`.
docker buildx bake reads the same file, so the pinned base is the one that is built on.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from moworld.errors import InputError
from moworld.files import read_json, write_json
from moworld_ops.components.platform.source import ROOT

IMAGES = ROOT / "images"
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
TIMEOUT_SECONDS = (3.05, 20.0)  # connect, read
MAX_MANIFEST_BYTES = 4 * 2**20  # the limit of registries themselves
USE_PUBLIC_BASE = "choose a base that anyone may read"
USE_OTHER_REGISTRY = "use another registry"


def bases(name: str, folder: Path = IMAGES) -> dict[str, str]:
    """Returns the bases of an image's Dockerfile: build argument to reference with tag."""
    text = (folder / name / "Dockerfile").read_text(encoding="utf-8")
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text[: text.index("\nFROM ")], re.MULTILINE))
    used = re.findall(r"^FROM (?:--\S+ )*\$\{(\w+)\}", text, re.MULTILINE)
    return {argument: defaults[argument] for argument in used}


def pinned_bases(name: str, folder: Path = IMAGES) -> dict[str, str]:
    """Returns `bases`, each with the digest from bases.json if that was pinned for the same tag."""
    path = folder / "bases.json"
    pinned = {key: str(one["default"]) for key, one in read_json(path)["variable"].items()} if path.is_file() else {}
    return {key: pinned[key] if pinned.get(key, "").partition("@")[0] == base else base for key, base in bases(name, folder).items()}


def write_bases(folder: Path = IMAGES, digests: dict[str, str] | None = None) -> None:
    """Writes bases.json for all Dockerfiles. A tag that did not change keeps its digest unless `digests` has a new one.

    digests: reference with tag to digest
    Raises InputError if two Dockerfiles use one argument for different bases.
    """
    values: dict[str, str] = {}
    for name in image_names(folder):
        for argument, base in pinned_bases(name, folder).items():
            tag = base.partition("@")[0]
            value = f"{tag}@{digests[tag]}" if digests and tag in digests else base
            if values.setdefault(argument, value) != value:
                found = f"{argument} is {values[argument]} and {value}"
                raise InputError(folder / name / "Dockerfile", argument, found, "one base for one argument", "rename one argument")
    write_json(folder / "bases.json", {"variable": {argument: {"default": value} for argument, value in sorted(values.items())}})


def image_names(folder: Path = IMAGES) -> list[str]:
    """Returns the names of the images: the folders that have a Dockerfile."""
    return sorted(path.parent.name for path in folder.glob("*/Dockerfile"))


def pin(folder: Path = IMAGES, log: Callable[[str], None] = print) -> dict[str, str]:
    """Gets the digest of every base from its registry and writes bases.json. Returns reference to digest.

    Nothing is written unless every registry answers. Raises InputError for an unreachable registry, an unknown base, and a digest
    that differs from that of the received bytes.
    """
    found: dict[str, str] = {}
    for base in sorted({base for name in image_names(folder) for base in bases(name, folder).values()}):
        found[base], platforms = resolve(base)
        log(f"{base} is {found[base]} ({', '.join(platforms) or 'one platform'})")
    write_bases(folder, found)
    return found


def resolve(reference: str) -> tuple[str, list[str]]:
    """Returns (digest, platforms) of a reference with tag, by the registry's HTTP API (OCI distribution specification, v2).

    If the tag names an index, the digest is that of the index and covers every platform. It is checked against the received bytes.
    """
    host, repository, tag = parse_reference(reference)
    root = f"{'http' if _is_loopback(host) else 'https'}://{host}/v2/{repository}/manifests/"
    headers = {"Accept": ", ".join((*INDEXES, *MANIFESTS))}
    digest = _request("HEAD", root + tag, headers, reference)[0].get("Docker-Content-Digest", "")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        expected = "sha256: and 64 hexadecimal digits"
        raise InputError(reference, "Docker-Content-Digest", digest or "nothing", expected, USE_OTHER_REGISTRY)
    body = _request("GET", root + digest, headers, reference)[1]
    received = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if received != digest:
        expected = f"those of {digest}, which the registry named"
        raise InputError(reference, "digest", f"bytes of {received}", expected, "do not trust this registry")
    try:
        platforms = [one.get("platform", {}) for one in json.loads(body).get("manifests", [])]
    except (ValueError, AttributeError):
        raise InputError(reference, "manifest", body[:40], "JSON", USE_OTHER_REGISTRY) from None
    return digest, [f"{one['os']}/{one['architecture']}" for one in platforms if one.get("os", "unknown") != "unknown"]


def parse_reference(reference: str) -> tuple[str, str, str]:
    """Returns (host, repository, tag) as docker parses a reference; the default host is Docker Hub. Raises InputError without a tag."""
    name, _, tag = reference.rpartition(":") if ":" in reference.rpartition("/")[2] else (reference, "", "")
    if not tag:
        raise InputError(reference, "tag", "nothing", "a tag", "name the version in the Dockerfile")
    host, slash, rest = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return ("registry-1.docker.io" if host == "docker.io" else host), rest, tag
    return "registry-1.docker.io", name if slash else f"library/{name}", tag


def _request(method: str, url: str, headers: dict[str, str], reference: str) -> tuple[Any, bytes]:
    """Returns the registry's headers and body; fetches an anonymous token if the registry requires one."""
    import requests

    def once(more: dict[str, str]) -> tuple[requests.Response, bytes]:
        # A registry may redirect to another store; requests drops the token when the host changes.
        with requests.request(method, url, headers=headers | more, timeout=TIMEOUT_SECONDS, stream=True) as response:
            body = b""
            for chunk in response.iter_content(2**16):
                body += chunk
                if len(body) > MAX_MANIFEST_BYTES:
                    raise InputError(reference, "registry", f"more than {MAX_MANIFEST_BYTES} bytes", "a manifest", USE_OTHER_REGISTRY)
            return response, body

    host = urlsplit(url).netloc
    try:
        response, body = once({})
        if response.status_code == 401:
            response, body = once({"Authorization": f"Bearer {_token(response.headers.get('WWW-Authenticate', ''), reference)}"})
    except requests.RequestException as error:
        raise InputError(reference, "registry", type(error).__name__, f"a response from {host}", "try again later") from None
    if response.status_code != 200:
        fixes = {404: "check its tag", 401: USE_PUBLIC_BASE, 403: USE_PUBLIC_BASE}
        found, fix = f"{response.status_code} {response.reason}", fixes.get(response.status_code, "try again later")
        raise InputError(reference, "registry", found, f"a manifest from {host}", fix)
    return response.headers, body


def _token(challenge: str, reference: str) -> str:
    """Returns an anonymous token from the server that the registry's challenge names."""
    import requests
    from requests.utils import parse_dict_header

    scheme, _, rest = challenge.partition(" ")
    fields = parse_dict_header(rest) if scheme.lower() == "bearer" else {}
    realm = urlsplit(fields.get("realm") or "")
    if realm.scheme != "https" and not (realm.scheme == "http" and _is_loopback(realm.netloc)):
        raise InputError(reference, "WWW-Authenticate", challenge or "nothing", "Bearer with a realm", USE_PUBLIC_BASE)
    query = {key: fields[key] for key in ("service", "scope") if key in fields}
    response = requests.get(realm.geturl(), params=query, timeout=TIMEOUT_SECONDS)
    answer = response.json() if response.status_code == 200 else {}
    if not (token := answer.get("token") or answer.get("access_token")):
        found = f"{response.status_code} {response.reason}"
        raise InputError(reference, "token", found, f"a token from {realm.netloc}", USE_PUBLIC_BASE)
    return str(token)


def _is_loopback(host: str) -> bool:
    """Returns True for this machine, with which docker and podman also speak without TLS."""
    return urlsplit(f"//{host}").hostname in ("localhost", "127.0.0.1", "::1")
