"""Signs the pushed images of the lock with the release key, verifies them, or saves their SBOMs. Needs cosign 2 and docker buildx.

    python tools/sign_images.py sign signing.pem      # the key of step `register`: ECDSA P-256, PEM
    python tools/sign_images.py verify signing.pub
    python tools/sign_images.py sbom DIRECTORY        # SPDX, as BuildKit attached it to the image of each platform

A signature is over the digest in the lock, which is that of the image's index: it covers all platforms and the attached SBOMs. It is stored beside
the image in its registry, and in no public log. Not run yet on a registry: no image was pushed.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "moworld_ops" / "components" / "platform" / "images.lock.json"
FORMAT = "{{ json .SBOM }}"


def references(lock: Path) -> dict[str, str]:
    """Returns image name to repository@digest; raises ValueError if one was never pushed."""
    entries = json.loads(lock.read_text(encoding="utf-8"))
    absent = sorted(name for name, entry in entries.items() if not entry["published"])
    if absent:
        raise ValueError(f"{lock.name}: {', '.join(absent)}: never pushed; push and record them first (images/README.md)")
    return {name: f"{entry['repository']}@{entry['digest']}" for name, entry in sorted(entries.items())}


def sign(images: dict[str, str], key: str) -> None:
    """Signs each image; the key is imported into cosign's format under a password that exists during this call only."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "COSIGN_PASSWORD": secrets.token_hex(16)}
        prefix = str(Path(folder, "release"))
        subprocess.run(["cosign", "import-key-pair", "--key", key, "--output-key-prefix", prefix], env=environment, check=True)
        for reference in images.values():
            command = ["cosign", "sign", "--yes", "--recursive", "--tlog-upload=false", "--key", f"{prefix}.key", reference]
            subprocess.run(command, env=environment, check=True)


def verify(images: dict[str, str], key: str) -> None:
    """Verifies each image's signature with the public key."""
    for reference in images.values():
        subprocess.run(["cosign", "verify", "--insecure-ignore-tlog=true", "--key", key, reference], check=True, stdout=subprocess.DEVNULL)
        print(f"{reference}: signed")


def sbom(images: dict[str, str], directory: str) -> None:
    """Writes DIRECTORY/NAME.spdx.json of each image."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name, reference in images.items():
        command = ["docker", "buildx", "imagetools", "inspect", reference, "--format", FORMAT]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        if not found:
            raise ValueError(f"{reference}: no SBOM is attached; build it with images/docker-bake.hcl")
        Path(directory, f"{name}.spdx.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str], lock: Path = LOCK) -> int:
    """Runs one of the commands above; returns 2 for wrong use or an image that was never pushed, 1 if a program fails."""
    commands = {"sign": sign, "verify": verify, "sbom": sbom}
    if len(arguments) != 2 or arguments[0] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        commands[arguments[0]](references(lock), arguments[1])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
