"""What turns a TrainJob into pods on a real API server: Kubernetes' own controllers and scheduler, JobSet, Trainer, and KWOK's fake nodes.

A fake pod runs until a test says how it ends (`end_pod`), or at once where its template has annotation `moworld.test/exit`.
"""

import json
import os
from pathlib import Path

import pytest
import yaml

from tests.cluster.build import HOW
from tests.cluster.control_plane import ControlPlane, accepts, answers, free_port, wait_until

HERE = Path(__file__).parent
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # JobSet's definition has 500 kB: seconds of the slower one
NEEDED = ("kube-controller-manager", "kube-scheduler", "jobset", "trainer-controller-manager", "kwok")
EXIT = "moworld.test/exit"  # annotation of a fake pod: the exit status of its containers
KUBERNETES = (  # the controllers that the tests need; the others cost time
    "namespace-controller,serviceaccount-controller,root-ca-certificate-publisher-controller,garbage-collector-controller,job-controller,"
    "cronjob-controller,deployment-controller,replicaset-controller,disruption-controller,resourcequota-controller,endpointslice-controller,"
    "persistentvolumeclaim-protection-controller,pod-garbage-collector-controller,node-lifecycle-controller,ttl-after-finished-controller"
)

# Volcano's place is taken by the default scheduler under its name: pods are placed, one by one, not as gangs.
SCHEDULER = """
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {{leaderElect: false}}
clientConnection: {{kubeconfig: {kubeconfig}}}
profiles: [{{schedulerName: default-scheduler}}, {{schedulerName: volcano}}]
"""


def missing(assets: Path) -> list[str]:
    """Returns the programs that a directory of assets lacks; one of setup-envtest lacks all of them."""
    return [name for name in NEEDED if not (assets / name).exists()]


def start(plane: ControlPlane) -> None:
    """Starts all controllers; returns when their webhooks answer."""
    account = f"--kubeconfig={plane.kubeconfig}"
    secure = [
        f"--tls-cert-file={plane.certificate}",
        f"--tls-private-key-file={plane.key}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    ]
    plane.start(
        "kube-controller-manager", account, *secure, f"--secure-port={free_port()}", f"--controllers={KUBERNETES}", f"--root-ca-file={plane.certificate}",
        f"--service-account-private-key-file={plane.accounts_key}", "--kube-api-qps=200", "--kube-api-burst=400",
        ready=lambda: plane.kubectl_result("-n", "default", "get", "serviceaccount", "default").returncode == 0,
    )  # fmt: skip
    port, profiles = free_port(), plane.folder / "scheduler.yaml"
    profiles.write_text(SCHEDULER.format(kubeconfig=plane.kubeconfig))
    plane.start("kube-scheduler", f"--config={profiles}", *secure, f"--secure-port={port}", ready=lambda: accepts(port))
    install(plane, definitions(plane.assets))
    _start_manager(plane, "jobset", "jobset", "jobset.x-k8s.io", "internalCertManagement")
    _start_manager(plane, "trainer-controller-manager", "trainer", "trainer.kubeflow.org", "certManagement")
    stages = [*published(plane.assets, "kwok"), *yaml.safe_load_all((HERE / "stages.yaml").read_text())]
    path, port = plane.folder / "kwok.yaml", free_port()
    path.write_text(yaml.safe_dump_all([one for one in stages if one["kind"] == "Stage" and one["metadata"]["name"] != "pod-complete"]))
    plane.start(
        "kwok", account, f"--config={path}", "--manage-all-nodes=true", f"--server-address=127.0.0.1:{port}",
        ready=lambda: answers(f"http://127.0.0.1:{port}/healthz"),
    )  # fmt: skip


def definitions(assets: Path) -> list[dict]:
    """Returns the definitions of JobSet and Trainer as published, and of Volcano as in volcano.yaml; skips where there are none."""
    found = [one for name in ("jobset", "trainer") for one in published(assets, name) if one["kind"] == "CustomResourceDefinition"]
    if not found:
        pytest.skip(f"{assets} has no definitions of JobSet and Trainer: {HOW}")
    return [*found, *yaml.safe_load_all((HERE / "volcano.yaml").read_text())]


def install(plane: ControlPlane, objects: list[dict]) -> None:
    """Applies objects and waits until the definitions among them are served."""
    plane.kubectl("apply", "--server-side", "-f", "-", objects=objects)
    names = [f"crd/{one['metadata']['name']}" for one in objects if one["kind"] == "CustomResourceDefinition"]
    if names:
        plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)


def add_node(plane: ControlPlane, name: str, labels: dict[str, str] | None = None, **resources: str) -> None:
    """Adds a fake node that is Ready and offers 64 CPUs, 256Gi and `resources`, such as {"huawei.com/Ascend910": "8"}."""
    offered = {"cpu": "64", "memory": "256Gi", "pods": "200", "ephemeral-storage": "4Ti", **resources}
    meta = {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}, "annotations": {"kwok.x-k8s.io/node": "fake"}}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": {"allocatable": offered, "capacity": offered}}
    plane.kubectl("create", "-f", "-", objects=[node])

    def ready() -> bool:
        conditions = plane.get("node", name)["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    wait_until(f"node {name}", ready)


def end_pod(plane: ControlPlane, namespace: str, name: str, exit_code: int) -> None:
    """Makes the containers of a fake pod end with this exit status."""
    plane.kubectl("-n", namespace, "annotate", "pod", name, f"{EXIT}={exit_code}")


def pods_of(plane: ControlPlane, namespace: str, trainjob: str) -> list[dict]:
    """Returns the pods of a TrainJob, the oldest first."""
    found = plane.get("-n", namespace, "pods", "-l", f"jobset.sigs.k8s.io/jobset-name={trainjob}")["items"]
    return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


def published(assets: Path, program: str) -> list[dict]:
    """Returns what the project publishes beside its program: definitions, webhooks, stages."""
    files = sorted((assets / "manifests" / program).rglob("*.yaml"))
    return [one for file in files for one in yaml.load_all(file.read_text(), LOADER) if one]


def _settings(group: str, certificates: str, port: int, health: int) -> dict:
    """Returns a manager's configuration: webhook and health on loopback, certificates from files; `certificates` is its key for that."""
    return {
        "apiVersion": f"config.{group}/v1alpha1",
        "kind": "Configuration",
        "webhook": {"port": port, "host": "127.0.0.1"},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "leaderElection": {"leaderElect": False},
        certificates: {"enable": False},
    }


def _start_manager(plane: ControlPlane, program: str, name: str, group: str, certificate_key: str) -> None:
    """Starts a controller-runtime manager whose webhooks are on loopback, and registers them."""
    port, health = free_port(), free_port()
    folder = plane.folder / name
    certificates = folder / "k8s-webhook-server" / "serving-certs"  # where controller-runtime looks below TMPDIR
    certificates.mkdir(parents=True)
    (certificates / "tls.crt").write_bytes(plane.certificate.read_bytes())
    (certificates / "tls.key").write_bytes(plane.key.read_bytes())
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(_settings(group, certificate_key, port, health)))
    environment = {**os.environ, "TMPDIR": str(folder), "KUBECONFIG": str(plane.kubeconfig)}
    plane.start(program, f"--config={path}", ready=lambda: answers(f"http://127.0.0.1:{health}/readyz"), environment=environment)
    hooks = [one for one in published(plane.assets, name) if one["kind"].endswith("WebhookConfiguration")]
    install(plane, [on_loopback(plane, name, one, port) for one in hooks])


def on_loopback(plane: ControlPlane, name: str, configuration: dict, port: int) -> dict:
    """Returns a webhook configuration that calls loopback instead of a Service."""
    found = json.loads(json.dumps(configuration))
    found["metadata"]["name"] = f"{name}-{found['kind'].lower()}"
    for hook in found["webhooks"]:
        path = hook["clientConfig"]["service"]["path"]
        hook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": plane.ca_bundle()}
        if path.endswith("-v1-pod"):  # as JobSet's own patches have it: no other pods
            hook["objectSelector"] = {"matchExpressions": [{"key": "jobset.sigs.k8s.io/jobset-name", "operator": "Exists"}]}
    return found
