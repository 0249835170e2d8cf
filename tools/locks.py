"""Writes the locks from pyproject.toml: `make lock` (UPGRADE=1 drops the present pins). Needs uv on the path.

    requirements.torch.lock  torch and what torch itself requires
    requirements.base.lock   the rest of the base install; a subset of requirements.lock
    requirements.cluster.lock  the rest of all extras; a subset of requirements.lock, for images
    requirements.lock        the rest of everything (all extras and the development tools)
    images/*/requirements.lock  images with packages of their own, with the same versions where the other locks have them; the NPU images have theirs

Each is universal (environment markers for Linux and macOS, Python 3.11 to 3.13) and hashed; pip and uv install them.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = "requirements.torch.lock"
BASE = "requirements.base.lock"
CLUSTER = "requirements.cluster.lock"
ALL = "requirements.lock"
IMAGES = ("launcher", "mlflow", "train-cpu")
NPU = "images/train-npu/requirements"  # .txt, .lock: both NPU images; resolved for arm64, where the index's torch is for CPUs
HEADERS = {
    TORCH: "# Written by 'make lock': torch and what torch requires. TORCH_INDEX=... installs another build in its place.",
    BASE: "# Written by 'make lock': the base install without torch; a subset of requirements.lock.",
    CLUSTER: "# Written by 'make lock': all extras without torch and the development tools; a subset of requirements.lock.",
    ALL: "# Written by 'make lock': all extras and the development tools, without torch and its CUDA libraries.",
}
# What another build of torch brings in versions of its own. Everything else that torch requires is in the other locks, too.
OF_TORCH = re.compile(r"torch|triton|nvidia-.*|cuda-.*")


def pins(text: str) -> dict[str, str]:
    """Returns the blocks of a lock by package: the pin, its marker and its hashes. A package may have a block per marker."""
    blocks: dict[str, str] = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE):
        if found := re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?==", block):
            # pip wants the package with extras and without to be pinned, each on a line of its own
            plain = block.replace(found[2], "", 1) if found[2] else ""
            blocks[found[1]] = blocks.get(found[1], "") + plain + block
    return blocks


def compile_(*arguments: str, keep: str = "", platform: str = "") -> dict[str, str]:
    """Resolves requirements with uv for all platforms and Pythons at once, or for one. keep: a lock whose pins are constraints."""
    with tempfile.TemporaryDirectory() as folder:
        constraints, out = Path(folder, "constraints.txt"), Path(folder, "out.txt")
        kept = re.findall(r"^[A-Za-z0-9][^\\\n]*", keep, re.MULTILINE)
        constraints.write_text("\n".join(re.sub(r"\[[^]]*\]", "", line) for line in kept))  # constraints have no extras
        where = ["--python-platform", platform] if platform else ["--universal"]
        command = ["uv", "pip", "compile", "-q", *where, "--python-version", "3.11", "--generate-hashes", "--no-header"]
        command += ["--no-annotate", "--no-strip-extras", "--no-emit-index-url", "--no-emit-find-links"]
        command += ["-c", str(constraints), "-o", str(out), *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "UV_FIND_LINKS"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        return pins(out.read_text())


def write(name: str, blocks: dict[str, str], keep: tuple[str, ...] = ()) -> None:
    """Writes a lock, without torch and its CUDA libraries except those in `keep`."""
    kept = [package for package in sorted(blocks) if name in (TORCH, f"{NPU}.lock") or package in keep or not OF_TORCH.fullmatch(package)]
    header = HEADERS.get(name, "# Written by 'make lock' from requirements.txt beside it.")
    (ROOT / name).write_text(f"{header}\n{''.join(blocks[package] for package in kept)}")
    print(f"{name}: {len(kept)} packages")


def main(upgrade: bool) -> None:
    present = "" if upgrade else "".join((ROOT / name).read_text() for name in (TORCH, ALL) if (ROOT / name).exists())
    everything = compile_("--extra", "dev", "pyproject.toml", keep=present)
    pinned = "".join(everything.values())
    with tempfile.NamedTemporaryFile("w", suffix=".in") as torch:
        torch.write(re.match(r"torch==\S+", everything["torch"])[0])  # type: ignore[index]
        torch.flush()
        write(TORCH, compile_(torch.name, keep=pinned))
    write(BASE, compile_("pyproject.toml", keep=pinned))
    write(CLUSTER, compile_("--extra", "cluster", "pyproject.toml", keep=pinned))
    for image in IMAGES:
        lock = ROOT / "images" / image / "requirements.lock"
        former = lock.read_text() if lock.exists() and not upgrade else ""
        wanted = f"images/{image}/requirements.txt"
        write(str(lock.relative_to(ROOT)), compile_(wanted, keep=pinned + former))
    lock = ROOT / f"{NPU}.lock"
    former = lock.read_text() if lock.exists() and not upgrade else ""
    write(f"{NPU}.lock", compile_(f"{NPU}.txt", keep=former, platform="aarch64-manylinux_2_28"))
    write(ALL, everything, keep=("triton",))


if __name__ == "__main__":
    main(upgrade=bool(os.environ.get("UPGRADE")))
    sys.exit(0)
