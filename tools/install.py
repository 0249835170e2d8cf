"""Makes .venv from the locks: `python3 tools/install.py base` serves a world, `all` also runs the lifecycle and the tests.

Only the standard library is needed. uv installs, since it shows what it downloads and does so in parallel; INSTALLER=pip
uses pip alone. pip's configuration (index, find-links, proxy, certificates) holds for both.

    TORCH_INDEX=URL      install torch from this index instead of requirements.torch.lock: PyTorch's index of CPU builds, say
    TORCH_PACKAGES=...   what to install from there; default: torch at the locked version. On Ascend: "torch==2.13.0 torch_npu==2.13.0"
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PYTHONS = ((3, 11), (3, 12), (3, 13))
LOCKS = {"base": "requirements.base.lock", "all": "requirements.lock"}
SIZES = {"base": "0.2 GB", "all": "0.8 GB"}


def fail(line):
    print(line, file=sys.stderr)
    sys.exit(2)


def say(line):
    print(f"install: {line}", flush=True)


def run(*command, **options):
    """Runs a command with its output shown. Exits with 2 and one closing line if it fails."""
    if subprocess.run([str(part) for part in command], check=False, **options).returncode:
        fail(f"install: {Path(command[0]).name} failed, see above; run the same command again to continue")


def make_venv():
    """Creates .venv, or keeps one that runs and has a supported Python."""
    if sys.version_info[:2] not in PYTHONS:
        found = f"{sys.version_info[0]}.{sys.version_info[1]}"
        fail(f"install: Python {found} at {sys.executable}, expected 3.11, 3.12 or 3.13; run: make PYTHON=/path/to/python3.11 ...")
    check = f"import sys; sys.exit(sys.version_info[:2] not in {PYTHONS})"
    if PYTHON.exists() and subprocess.run([PYTHON, "-c", check], check=False).returncode == 0:
        return
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        fail(f"install: this Python has no ensurepip; on Debian and Ubuntu run: apt-get install {package}")
    shutil.rmtree(VENV, ignore_errors=True)
    say(f"creates .venv with Python {sys.version.split()[0]}")
    run(sys.executable, "-m", "venv", VENV)


def pip(*arguments):
    run(PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=ROOT)


def uv_environment():
    """Returns the environment for uv: pip's settings, from its files and variables, under uv's names."""
    listed = subprocess.run([str(PYTHON), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    settings = {key.partition(".")[2].lstrip("."): value for key, value in re.findall(r"^(\S+)='(.*)'$", listed, re.MULTILINE)}
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS", "no-index": "UV_NO_INDEX"}
    names.update({"cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY", "default-timeout": "UV_HTTP_TIMEOUT", "timeout": "UV_HTTP_TIMEOUT"})
    found = {names[key]: value for key, value in settings.items() if key in names and value}
    if "UV_FIND_LINKS" in found:
        found["UV_FIND_LINKS"] = ",".join(found["UV_FIND_LINKS"].split())
    return {**found, **os.environ, "VIRTUAL_ENV": str(VENV)}


def pinned(name, lock):
    """Returns the block of one package in a lock: its pin and hashes."""
    block = re.search(rf"^{name}==(?:.*\\\n)*.*\n", (ROOT / lock).read_text(), re.MULTILINE)
    return block[0]


def install(lock, index, packages):
    """Installs torch and the rest with uv, or with pip where INSTALLER=pip."""
    locks = [option for name in ("requirements.torch.lock", lock) for option in ("-r", name)]
    if os.environ.get("INSTALLER") == "pip":
        command, environment = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--no-compile"], dict(os.environ)
    else:
        requirement = VENV / "uv.txt"
        requirement.write_text(pinned("uv", "requirements.lock"))
        pip("install", "-q", "--require-hashes", "-r", requirement)
        command, environment = [VENV / "bin" / "uv", "pip", "install"], uv_environment()
    if index:
        say(f"{' '.join(packages)} from {index}")
        run(*command, "--index-url", index, *packages, cwd=ROOT, env=environment)
        locks = locks[2:]
    run(*command, "--require-hashes", *locks, cwd=ROOT, env=environment)


def install_project():
    """Installs this clone as an editable package, and its former import names as aliases."""
    pip("install", "-q", "--no-deps", "--no-build-isolation", "-e", ".")
    site = subprocess.run([PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True)
    line = "import moworld_ops.former_names; moworld_ops.former_names.activate()\n"
    Path(site.stdout.strip(), "moworld_former_names.pth").write_text(line)


def main(what):
    began = time.monotonic()
    make_venv()
    torch = re.search(r"^torch==\S+", (ROOT / "requirements.torch.lock").read_text(), re.MULTILINE)[0]
    index, packages = os.environ.get("TORCH_INDEX", ""), os.environ.get("TORCH_PACKAGES", "").split() or [torch]
    size = "" if index else "; on Linux torch brings its CUDA libraries, 2.7 GB (TORCH_INDEX=... takes another build)"
    say(f"{what}: {SIZES[what]} to download besides torch{size}")
    install(LOCKS[what], index, packages)
    install_project()
    pip("check")
    say(f"done in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    if sys.argv[1:] not in (["base"], ["all"]):
        fail("install: expected 'base' or 'all', such as: python3 tools/install.py base")
    main(sys.argv[1])
