"""Container images by name, pinned by digest in images.lock.json (package data, so that an installed wheel has it).

In a clone, `python -m moworld_ops.components.platform.images` rewrites the lock from the Dockerfiles in images/ and the sources that they
copy; `pin` first pins the bases, `record FILE` enters the digests of a build that pushed its images.
"""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from moworld.documents import parse_yaml
from moworld.errors import InputError
from moworld.files import read_json_object, write_json
from moworld_ops.components.platform.bases import IMAGES, image_names, pin, pinned_bases, write_bases
from moworld_ops.components.platform.source import ROOT, clone_root

LOCK = Path(__file__).with_name("images.lock.json")
KUSTOMIZE = ROOT / "manifests" / "components" / "images" / "kustomization.yaml"


def lock_entries() -> dict[str, dict[str, Any]]:
    """Returns the lock: image name to {"repository", "digest", "published", "bases", "inputs"}; inputs: `inputs_digest` of the build."""
    return dict(json.loads(LOCK.read_text(encoding="utf-8")))


def image(name: str) -> str:
    """Returns an image's reference, repository@sha256:digest. Raises InputError for a name that is not in the lock.

    A tag can be pushed again, and kfp's cache would then return stale results.
    """
    entries = lock_entries()
    if name not in entries:
        raise InputError(LOCK, name, "no such image", f"one of {', '.join(sorted(entries))}", "run 'make lock' after adding its Dockerfile")
    return f"{entries[name]['repository']}@{entries[name]['digest']}"


def unpublished() -> list[str]:
    """Returns the names of images that were never pushed: their digest is that of the build inputs."""
    return sorted(name for name, entry in lock_entries().items() if not entry["published"])


def unpinned(images: set[str] | None = None) -> list[str]:
    """Returns the bases of these images (default: of all) that are named by tag alone, so that two builds may differ."""
    entries = lock_entries()
    return sorted({base for name in images or entries for base in entries[name]["bases"] if "@sha256:" not in base})


def outdated() -> list[str]:
    """Returns the names of pushed images that were built from other inputs than this clone's, or [] outside a clone."""
    if not IMAGES.is_dir():
        return []
    return sorted(name for name, entry in lock_entries().items() if entry["published"] and entry["inputs"] != inputs_digest(name))


def inputs_digest(name: str, root: Path = ROOT) -> str:
    """Returns sha256:... over an image's folder, its bases, and every file that its Dockerfile copies: our sources, the locks of packages."""
    digest = hashlib.sha256()
    for path in sorted({*copied_files(name, root), *(root / "images" / name).iterdir()}):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    digest.update(json.dumps(pinned_bases(name, root / "images"), sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"


def copied_files(name: str, root: Path = ROOT) -> list[Path]:
    """Returns the files of the clone at `root` that an image's Dockerfile copies, without those that git ignores.

    The lock and the manifest made of it are left out: they change when an image is pushed.
    """
    text = (root / "images" / name / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    copied = [source for line in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE) for source in line.split()[:-1]]
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *copied]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    written = {path.relative_to(ROOT) for path in (LOCK, KUSTOMIZE)}
    return [root / path for path in listed.split("\0") if path and Path(path) not in written and (root / path).is_file()]


def write_lock(pushed: dict[str, str] | None = None) -> None:
    """Writes images.lock.json, bases.json and the kustomize component; published images and pinned bases keep their digests.

    pushed: image name to the digest that a registry returned for it, built from the files that are here now
    """
    write_bases()
    old, new = lock_entries() if LOCK.exists() else {}, pushed or {}
    entries = {}
    for name in image_names():
        if old.get(name, {}).get("published") and name not in new:
            entries[name] = old[name]
            continue
        inputs = inputs_digest(name)
        facts = {"digest": new.get(name, inputs), "published": name in new, "inputs": inputs}
        bases = sorted(set(pinned_bases(name).values()))
        entries[name] = {"repository": f"ghcr.io/moworld-operations/python-{name}", "bases": bases, **facts}
    write_json(LOCK, entries)
    KUSTOMIZE.write_text(kustomization(entries), encoding="utf-8")


def kustomization(entries: dict[str, dict[str, Any]]) -> str:
    """Returns the kustomize component that replaces the image names in manifests/ by references from the lock."""
    lines = [f"# Written by 'make lock' from {LOCK.relative_to(ROOT)}.", "apiVersion: kustomize.config.k8s.io/v1alpha1", "kind: Component"]
    lines.append("images:")
    for name, entry in sorted(entries.items()):
        lines.append(f"  - {{name: moworld-{name}, newName: {entry['repository']}, digest: '{entry['digest']}'}}")
    return "\n".join(lines) + "\n"


def pushed_digests(path: Path) -> dict[str, str]:
    """Returns image name to digest from the metadata file of `docker buildx bake`. Raises InputError for a target without a digest."""
    found = {name: str(facts.get("containerimage.digest", "")) for name, facts in read_json_object(path).items() if name in image_names()}
    for name, digest in found.items():
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise InputError(path, name, digest or "no containerimage.digest", "the digest of a pushed image", "build it with --push")
    if not found:
        raise InputError(path, "", "no image of this repository", f"some of {', '.join(image_names())}", "pass bake's --metadata-file")
    return found


def own_images(path: Path) -> dict[str, Any]:
    """Returns section `images` of a profile from a YAML file with it, or from the metadata file of a build that pushed its images."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("--images", path, error, "a YAML or JSON file", "check the path") from None
    found = parse_yaml(content, f"--images: {path}", "a YAML or JSON file")
    if not isinstance(found, dict):
        raise InputError("--images", path, type(found).__name__, "a mapping with registry, and tag or digests", "see docs/runbook.md")
    names = {str(facts["image.name"]) for facts in found.values() if isinstance(facts, dict) and "image.name" in facts}
    if not names:
        return found
    registries = {re.sub(r"(:[^/:]*)?$", "", name.split(",")[0]).rpartition("/")[0] for name in names}
    if len(registries) != 1:
        raise InputError("--images", path, ", ".join(sorted(registries)), "images of one registry", "build all with the same prefix")
    return {"registry": registries.pop(), "digests": pushed_digests(path)}


def main(argv: list[str]) -> int:
    """Writes the lock; `pin` first gets the digests of the base images from their registries; `record FILE` enters those of a build."""
    try:
        clone_root("moworld_ops.components.platform.images")
        if argv and argv != ["pin"] and (argv[0] != "record" or len(argv) != 2):
            expected = "nothing, 'pin', or 'record' and a file"
            raise InputError("moworld_ops.components.platform.images", "", " ".join(argv), expected, "see images/README.md")
        if argv == ["pin"]:
            pin()
        write_lock(pushed_digests(Path(argv[1])) if len(argv) == 2 else None)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
