"""Kueue on the control plane of the tests, with its own management of certificates, for TrainJobs alone."""

import base64

import yaml

from tests.cluster.control_plane import ControlPlane, answers, free_port
from tests.cluster.controllers import install, on_loopback, published

SPACE = "kueue-system"
SECRET = "kueue-webhook-server-cert"
FRAMEWORK = "trainer.kubeflow.org/trainjob"
# of Kueue's webhooks those that exist with this framework alone
WEBHOOKS = ("trainjob", "workload", "clusterqueue", "localqueue", "cohort", "resourceflavor")


def start(plane: ControlPlane) -> None:
    """Starts Kueue; returns when its webhooks are registered and it is ready."""
    port, health = free_port(), free_port()
    folder = plane.folder / "kueue"
    folder.mkdir()
    for name, source in (("tls.crt", plane.certificate), ("tls.key", plane.key)):
        (folder / name).write_bytes(source.read_bytes())
    objects = published(plane.assets, "kueue")
    plane.kubectl("create", "namespace", SPACE)
    install(plane, [_converted(plane, one, port) for one in objects if one["kind"] == "CustomResourceDefinition"])
    install(plane, [_secret(plane), *(_hooks(plane, one, port) for one in objects if one["kind"].endswith("WebhookConfiguration"))])
    settings = folder / "settings.yaml"
    settings.write_text(yaml.safe_dump(_settings(port, health, str(folder))))
    plane.start(
        "kueue", f"--config={settings}", "--feature-gates=VisibilityOnDemand=false",
        ready=lambda: answers(f"http://127.0.0.1:{health}/readyz"), environment={"KUBECONFIG": str(plane.kubeconfig), "HOME": str(folder)},
    )  # fmt: skip


def _settings(port: int, health: int, certificates: str) -> dict:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "webhook": {"port": port, "host": "127.0.0.1", "certDir": certificates},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "leaderElection": {"leaderElect": False},
        "integrations": {"frameworks": [FRAMEWORK]},
    }


def _secret(plane: ControlPlane) -> dict:
    """Returns the Secret in which Kueue would keep a certificate of its own making; it keeps this one, which is valid for loopback."""
    certificate, key = plane.certificate.read_bytes(), plane.key.read_bytes()
    data = {"ca.crt": certificate, "ca.key": key, "tls.crt": certificate, "tls.key": key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": SPACE},
        "data": {name: base64.b64encode(content).decode() for name, content in data.items()},
    }


def _converted(plane: ControlPlane, definition: dict, port: int) -> dict:
    """Returns a definition of several versions with Kueue's conversion on loopback; Kueue writes its authority there."""
    if len(definition["spec"]["versions"]) > 1:
        where = {"url": f"https://127.0.0.1:{port}/convert", "caBundle": plane.ca_bundle()}
        definition["spec"]["conversion"] = {"strategy": "Webhook", "webhook": {"clientConfig": where, "conversionReviewVersions": ["v1"]}}
    return definition


def _hooks(plane: ControlPlane, configuration: dict, port: int) -> dict:
    """Returns those of Kueue's webhooks that exist here, under the names that Kueue looks for."""
    found = on_loopback(plane, "kueue", configuration, port)
    kind = "mutating" if found["kind"].startswith("Mutating") else "validating"
    found["metadata"]["name"] = f"kueue-{kind}-webhook-configuration"
    found["webhooks"] = [one for one in found["webhooks"] if one["clientConfig"]["url"].rpartition("-")[2] in WEBHOOKS]
    return found
