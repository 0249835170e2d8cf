"""Images by name, pinned by digest, from images/lock.json."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from components.platform.bases import built_on, names, pin, write_bases
from moworld.errors import InputError

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "images" / "lock.json"
KUSTOMIZE = ROOT / "manifests" / "components" / "images" / "kustomization.yaml"


def locked(name: str) -> dict[str, Any]:
    """The lock's entry of one image: {"repository", "digest", "published", "bases"}. Raises InputError for a name it does not hold."""
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


def unpinned(images: set[str] | None = None) -> list[str]:
    """The bases of these images, or of all, that no digest pins: what their tags name may change from one build to the next."""
    entries = json.loads(LOCK.read_text(encoding="utf-8"))
    return sorted({base for name in images or entries for base in entries[name]["bases"] if "@sha256:" not in base})


def build_inputs_digest(name: str) -> str:
    """sha256:... over the image's folder, its bases and the lock of packages: what stands in the lock until the image is pushed."""
    digest = hashlib.sha256()
    for path in (*sorted((ROOT / "images" / name).iterdir()), ROOT / "requirements.lock"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    digest.update(json.dumps(built_on(name), sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"


def write_lock() -> None:
    """Write images/lock.json and bases.json anew; published images and pinned bases keep their digests."""
    write_bases()
    old = json.loads(LOCK.read_text(encoding="utf-8")) if LOCK.exists() else {}
    entries = {}
    for name in names():
        kept = old.get(name, {})
        fresh = {"repository": f"ghcr.io/moworld-operations/python-{name}", "digest": build_inputs_digest(name), "published": False}
        entries[name] = kept if kept.get("published") else {**fresh, "bases": sorted(set(built_on(name).values()))}
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


def main(argv: list[str]) -> int:
    """Write the lock; with `pin`, ask the registries for the digests of the base images before."""
    try:
        if argv == ["pin"]:
            pin()
        elif argv:
            raise InputError("components.platform.images", "", " ".join(argv), "'pin' or nothing", "see images/README.md")
        write_lock()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
