"""The base images that the Dockerfiles start from, and the digests that their registries give them.

A Dockerfile names its base in an ARG before FROM. `images/bases.json` gives each of these arguments its value, with the digest once `pin`
has asked the registry for it; it is a file of docker buildx bake, so that what is pinned is what is built.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from moworld.errors import InputError
from moworld.files import write_json

IMAGES = Path(__file__).parents[2] / "images"
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
SECONDS = (3.05, 20.0)  # to connect, to answer
LARGEST = 4 * 2**20  # bytes of a manifest: what registries themselves accept


def bases(name: str, folder: Path = IMAGES) -> dict[str, str]:
    """The bases that an image's Dockerfile names: argument to reference with tag."""
    text = (folder / name / "Dockerfile").read_text(encoding="utf-8")
    before = dict(re.findall(r"^ARG (\w+)=(\S+)$", text[: text.index("\nFROM ")], re.MULTILINE))
    used = re.findall(r"^FROM (?:--\S+ )*\$\{(\w+)\}", text, re.MULTILINE)
    return {argument: before[argument] for argument in used}


def built_on(name: str, folder: Path = IMAGES) -> dict[str, str]:
    """The same with the digests of bases.json, where they are there for these very tags."""
    path = folder / "bases.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["variable"] if path.is_file() else {}
    values = {argument: str(one["default"]) for argument, one in kept.items()}
    return {a: values[a] if values.get(a, "").partition("@")[0] == base else base for a, base in bases(name, folder).items()}


def write_bases(folder: Path = IMAGES, digests: dict[str, str] | None = None) -> None:
    """Write bases.json anew: the bases of all Dockerfiles, with the digests it had where the tag is the same, or with new ones.

    digests: reference with tag to digest
    """
    values: dict[str, str] = {}
    for name in names(folder):
        for argument, base in built_on(name, folder).items():
            tag = base.partition("@")[0]
            value = f"{tag}@{digests[tag]}" if digests and tag in digests else base
            if values.setdefault(argument, value) != value:
                found = f"{argument} is {values[argument]} and {value}"
                raise InputError(
                    folder / name / "Dockerfile", argument, found, "one base for one argument", "give one of them another name"
                )
    write_json(folder / "bases.json", {"variable": {argument: {"default": value} for argument, value in sorted(values.items())}})


def names(folder: Path = IMAGES) -> list[str]:
    """The images: folders with a Dockerfile."""
    return sorted(path.parent.name for path in folder.glob("*/Dockerfile"))


def pin(folder: Path = IMAGES, say: Callable[[str], None] = print) -> dict[str, str]:
    """Ask the registries for the digest of every base, and write them to bases.json; returns reference to digest.

    Nothing is written unless all of them answered. Raises InputError for a registry that is away, a base that is not there, and a digest
    that is not that of what the registry sends.
    """
    found: dict[str, str] = {}
    for base in sorted({base for name in names(folder) for base in bases(name, folder).values()}):
        found[base], platforms = resolve(base)
        say(f"{base} is {found[base]} ({', '.join(platforms) or 'one platform'})")
    write_bases(folder, found)
    return found


def resolve(reference: str) -> tuple[str, list[str]]:
    """(digest, platforms) of a reference with tag, by the registry's HTTP API (OCI distribution specification, v2).

    The digest is that of the index where the tag names one, so that it holds for every platform; it is checked against the bytes.
    """
    host, repository, tag = parts(reference)
    root = f"{'http' if _is_loopback(host) else 'https'}://{host}/v2/{repository}/manifests/"
    headers = {"Accept": ", ".join((*INDEXES, *MANIFESTS))}
    digest = _ask("HEAD", root + tag, headers, reference)[0].get("Docker-Content-Digest", "")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise InputError(
            reference, "Docker-Content-Digest", digest or "nothing", "sha256: and 64 hexadecimal digits", "ask another registry"
        )
    body = _ask("GET", root + digest, headers, reference)[1]
    have = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if have != digest:
        raise InputError(
            reference, "digest", f"bytes of {have}", f"those of {digest}, which the registry named", "trust no answer from there"
        )
    try:
        each = [one.get("platform", {}) for one in json.loads(body).get("manifests", [])]
    except (ValueError, AttributeError):
        raise InputError(reference, "manifest", body[:40], "JSON", "ask another registry") from None
    return digest, [f"{one['os']}/{one['architecture']}" for one in each if one.get("os", "unknown") != "unknown"]


def parts(reference: str) -> tuple[str, str, str]:
    """(host, repository, tag) as docker reads a reference: without a host it is Docker Hub's, and one word there is an official image."""
    name, _, tag = reference.rpartition(":") if ":" in reference.rpartition("/")[2] else (reference, "", "")
    if not tag:
        raise InputError(reference, "tag", "nothing", "a tag", "name the version in the Dockerfile")
    host, slash, rest = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return ("registry-1.docker.io" if host == "docker.io" else host), rest, tag
    return "registry-1.docker.io", name if slash else f"library/{name}", tag


def _ask(method: str, url: str, headers: dict[str, str], reference: str) -> tuple[Any, bytes]:
    """The registry's headers and bytes, with a token where it asks for one."""
    import requests

    def once(more: dict[str, str]) -> tuple[requests.Response, bytes]:
        # Manifests may lie at a store elsewhere; requests drops the token on the way to another host.
        with requests.request(method, url, headers=headers | more, timeout=SECONDS, stream=True, allow_redirects=True) as answer:
            body = b""
            for chunk in answer.iter_content(2**16):
                body += chunk
                if len(body) > LARGEST:
                    raise InputError(reference, "registry", f"more than {LARGEST} bytes", "a manifest", "ask another registry")
            return answer, body

    try:
        answer, body = once({})
        if answer.status_code == 401:
            answer, body = once({"Authorization": f"Bearer {_token(answer.headers.get('WWW-Authenticate', ''), reference)}"})
    except requests.RequestException as error:
        raise InputError(reference, "registry", type(error).__name__, f"an answer of {urlsplit(url).netloc}", "try again later") from None
    if answer.status_code != 200:
        mends = {404: "look for its tag", 401: "choose a base that anyone may read", 403: "choose a base that anyone may read"}
        found, mend = f"{answer.status_code} {answer.reason}", mends.get(answer.status_code, "try again later")
        raise InputError(reference, "registry", found, f"a manifest from {urlsplit(url).netloc}", mend)
    return answer.headers, body


def _token(challenge: str, reference: str) -> str:
    """A token of anyone, from where the registry's challenge says."""
    import requests
    from requests.utils import parse_dict_header

    scheme, _, rest = challenge.partition(" ")
    asked = parse_dict_header(rest) if scheme.lower() == "bearer" else {}
    realm = urlsplit(asked.get("realm") or "")
    if realm.scheme != "https" and not (realm.scheme == "http" and _is_loopback(realm.netloc)):
        raise InputError(reference, "WWW-Authenticate", challenge or "nothing", "Bearer with a realm", "choose a base that anyone may read")
    wanted = {key: asked[key] for key in ("service", "scope") if key in asked}
    answer = requests.get(realm.geturl(), params=wanted, timeout=SECONDS)
    said = answer.json() if answer.status_code == 200 else {}
    token = said.get("token") or said.get("access_token")
    if not token:
        raise InputError(
            reference, "token", f"{answer.status_code} {answer.reason}", f"a token of {realm.netloc}", "choose a base that anyone may read"
        )
    return str(token)


def _is_loopback(host: str) -> bool:
    """Whether a host is this machine: docker and podman, too, speak to it without TLS."""
    return urlsplit(f"//{host}").hostname in ("localhost", "127.0.0.1", "::1")
