"""Images by name, pinned by digest, from images/lock.json."""

import hashlib
import json
from pathlib import Path
from typing import Any

from moworld.errors import InputError

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "images" / "lock.json"
KUSTOMIZE = ROOT / "manifests" / "components" / "images" / "kustomization.yaml"


def locked(name: str) -> dict[str, Any]:
    """The lock's entry of one image: {"repository", "digest", "published"}. Raises InputError for a name it does not hold."""
    entries = json.loads(LOCK.read_text(encoding="utf-8"))
    if name not in entries:
        raise InputError(LOCK, name, "no such image", f"one of {', '.join(sorted(entries))}", "run 'make lock' after adding its Dockerfile")
    return dict(entries[name])


def image(name: str) -> str:
    """The image's reference, repository@sha256:digest: a tag that is pushed again would give kfp's cache stale hits."""
    entry = locked(name)
    return f"{entry['repository']}@{entry['digest']}"


def unpublished() -> list[str]:
    """Names of the images whose digest is that of their build inputs, since nothing was pushed yet."""
    return sorted(name for name, entry in json.loads(LOCK.read_text(encoding="utf-8")).items() if not entry["published"])


def build_inputs_digest(name: str) -> str:
    """sha256:... over the image's folder and the lock of packages: what stands in the lock until the image is pushed."""
    digest = hashlib.sha256()
    for path in (*sorted((ROOT / "images" / name).iterdir()), ROOT / "requirements.lock"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def write_lock() -> None:
    """Write images/lock.json anew; published images keep their pushed digest."""
    old = json.loads(LOCK.read_text(encoding="utf-8")) if LOCK.exists() else {}
    entries = {}
    for path in sorted((ROOT / "images").glob("*/Dockerfile")):
        name = path.parent.name
        kept = old.get(name, {})
        entries[name] = (
            kept
            if kept.get("published")
            else {"repository": f"ghcr.io/moworld-operations/python-{name}", "digest": build_inputs_digest(name), "published": False}
        )
    LOCK.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    KUSTOMIZE.write_text(kustomization(entries), encoding="utf-8")


def kustomization(entries: dict[str, dict[str, Any]]) -> str:
    """The kustomize component that gives every image of the manifests its digest from the lock."""
    lines = [
        "# Written by 'make lock' from images/lock.json.",
        "apiVersion: kustomize.config.k8s.io/v1alpha1",
        "kind: Component",
        "images:",
    ]
    for name, entry in sorted(entries.items()):
        lines.append(f"  - {{name: moworld-{name}, newName: {entry['repository']}, digest: '{entry['digest']}'}}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_lock()
