"""Who may talk to whom, on which port: a table of connections, evaluated over the rendered network policies of each overlay."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.manifests.network import Peer, allowed, pod
from tests.manifests.rendering import KUBECTL, OVERLAYS, ROOT, rendered
from tests.manifests.test_manifests import check, pod_templates

HERE = "moworld"
TASK, OTHER_TASK = pod(HERE, {"pipeline/runid": "r"}), pod("other", {"pipeline/runid": "r"})
LEDGER = pod(HERE, {"pipeline/runid": "r", "moworld.io/uses-database": "true"})
RANK = pod(HERE, {"jobset.sigs.k8s.io/jobset-name": "m-r-distill-0"})
MLFLOW = pod(HERE, {"app.kubernetes.io/name": "mlflow"}, {"http": 5000})
PLAYER = pod(HERE, {"app.kubernetes.io/name": "player"}, {"http": 8800})
REAPER = pod(HERE, {"app.kubernetes.io/name": "reaper"})
LEFTOVERS = pod(HERE, {"app.kubernetes.io/name": "leftovers"})
CAPTIONS = pod(HERE, {"moworld.io/serves": "captions"})
ARTIFACTS = pod(HERE, {"app": "ml-pipeline-ui-artifact"})
NOTEBOOK = pod(HERE, {"app": "notebook"})
KFP_API, KFP_UI = pod("kubeflow", {"app": "ml-pipeline"}), pod("kubeflow", {"app": "ml-pipeline-ui"})
TRAINER = pod("kubeflow-system", {"app.kubernetes.io/name": "trainer"})
METADATA, SEAWEEDFS = pod("kubeflow", {"app": "metadata-grpc-server"}), pod("kubeflow", {"app": "seaweedfs"})
MINIO, DATABASE = pod("minio", {"app": "minio"}), Peer(ip="10.0.7.7", entity="world")
COREDNS, OPENSHIFT_DNS = (
    pod("kube-system", {"k8s-app": "kube-dns"}),
    pod("openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"}),
)
NODE_DNS, API_SERVER = Peer(ip="169.254.20.10", entity="host"), Peer(ip="10.0.0.2", entity="kube-apiserver")
S3, METADATA_SERVICE = Peer(ip="52.216.1.1", entity="world"), Peer(ip="169.254.169.254", entity="host")
GATEWAY = pod("istio-ingress", {"app": "gateway"}, namespace_labels={"moworld.io/ingress": "true"})
PROMETHEUS, ISTIOD = pod("monitoring", {"app": "prometheus"}), pod("istio-system", {"app": "istiod"})

# name: source, target, port, protocol, allowed
FLOWS = {
    "a task asks CoreDNS": (TASK, COREDNS, 53, "UDP", True),
    "a rank asks NodeLocal DNSCache": (RANK, NODE_DNS, 53, "UDP", True),
    "the player asks OpenShift's DNS": (PLAYER, OPENSHIFT_DNS, 5353, "UDP", True),
    "a notebook asks CoreDNS by TCP": (NOTEBOOK, COREDNS, 53, "TCP", True),
    "a task reaches CoreDNS' metrics": (TASK, COREDNS, 9153, "TCP", False),
    "a launcher reaches the API server": (TASK, API_SERVER, 6443, "TCP", True),
    "the reaper reaches the API server": (REAPER, API_SERVER, 6443, "TCP", True),
    "what removes leftovers reaches the API server": (LEFTOVERS, API_SERVER, 6443, "TCP", True),
    "what removes leftovers reads S3 by HTTP": (LEFTOVERS, S3, 80, "TCP", False),
    "KFP's artifact server reaches the API server": (ARTIFACTS, API_SERVER, 6443, "TCP", True),
    "a rank reaches the API server": (RANK, API_SERVER, 6443, "TCP", False),
    "the player reaches the API server": (PLAYER, API_SERVER, 6443, "TCP", False),
    "a task reads S3": (TASK, S3, 443, "TCP", True),
    "a rank reads S3": (RANK, S3, 443, "TCP", True),
    "a rank reads KFP's SeaweedFS": (RANK, SEAWEEDFS, 8333, "TCP", True),
    "a task writes to KFP's SeaweedFS": (TASK, SEAWEEDFS, 8333, "TCP", True),
    "MLflow writes to MinIO": (MLFLOW, MINIO, 9000, "TCP", True),
    "the captioner loads weights from MinIO": (CAPTIONS, MINIO, 9000, "TCP", True),
    "KFP's artifact server reads KFP's store": (ARTIFACTS, SEAWEEDFS, 8333, "TCP", True),
    "the player reaches a store": (PLAYER, S3, 443, "TCP", False),
    "a task sends mail": (TASK, S3, 25, "TCP", False),
    "a task reads the cloud's metadata": (TASK, METADATA_SERVICE, 80, "TCP", False),
    "a rank reads the cloud's metadata by 443": (RANK, METADATA_SERVICE, 443, "TCP", False),
    "MLflow reaches its database": (MLFLOW, DATABASE, 5432, "TCP", True),
    "a task reaches MLflow's database": (TASK, DATABASE, 5432, "TCP", False),
    "a task that writes the ledger reaches its database": (LEDGER, DATABASE, 5432, "TCP", True),
    "a task that writes the ledger reaches another port": (LEDGER, DATABASE, 22, "TCP", False),
    "a driver calls KFP's API": (TASK, KFP_API, 8887, "TCP", True),
    "a driver calls KFP's metadata store": (TASK, METADATA, 8080, "TCP", True),
    "the reaper calls KFP's API": (REAPER, KFP_API, 8888, "TCP", True),
    "a rank calls KFP's API": (RANK, KFP_API, 8888, "TCP", False),
    "a rank reports its progress to Trainer": (RANK, TRAINER, 10443, "TCP", True),
    "a task calls Trainer": (TASK, TRAINER, 10443, "TCP", False),
    "a rank calls Trainer's webhook": (RANK, TRAINER, 9443, "TCP", False),
    "KFP's page reads artifacts": (KFP_UI, ARTIFACTS, 3000, "TCP", True),
    "a task reads artifacts as KFP's page does": (TASK, ARTIFACTS, 3000, "TCP", False),
    "the artifact server's sidecar gets its configuration": (ARTIFACTS, ISTIOD, 15012, "TCP", True),
    "a task calls the registry": (TASK, MLFLOW, 5000, "TCP", True),
    "the player's init container calls the registry": (PLAYER, MLFLOW, 5000, "TCP", True),
    "a task of another namespace calls the registry": (OTHER_TASK, MLFLOW, 5000, "TCP", False),
    "a notebook calls the registry": (NOTEBOOK, MLFLOW, 5000, "TCP", False),
    "a task calls the captioner": (TASK, CAPTIONS, 8000, "TCP", True),
    "a rank calls the captioner": (RANK, CAPTIONS, 8000, "TCP", False),
    "a task of another namespace calls the captioner": (OTHER_TASK, CAPTIONS, 8000, "TCP", False),
    "ranks meet": (RANK, RANK, 29500, "TCP", True),
    "a task calls a rank": (TASK, RANK, 29500, "TCP", False),
    "a rank calls a task": (RANK, TASK, 8080, "TCP", False),
    "a visitor plays through the gateway": (GATEWAY, PLAYER, 8800, "TCP", True),
    "Prometheus reads the player's metrics": (PROMETHEUS, PLAYER, 8800, "TCP", True),
    "the gateway reaches another port": (GATEWAY, PLAYER, 22, "TCP", False),
    "KFP's page reaches the player": (KFP_UI, PLAYER, 8800, "TCP", False),
}


def policies(objects: list[dict]) -> list[dict]:
    return [one for one in objects if one["kind"] in ("NetworkPolicy", "CiliumNetworkPolicy")]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_connections_of_the_table_are_allowed_or_denied(overlay):
    held = policies(rendered(overlay))
    found = {name: allowed(held, source, target, port, protocol) for name, (source, target, port, protocol, _) in FLOWS.items()}
    assert found == {name: wanted for name, (*_, wanted) in FLOWS.items()}


def build(folder: Path, text: str) -> list[dict]:
    """Returns the objects of a kustomization written to a new folder; MANIFESTS stands for our folder."""
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(text.replace("MANIFESTS", os.path.relpath(ROOT, folder)))
    done = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_gets_an_istio_sidecar(overlay):
    """In a namespace with injection a rank would wait for a sidecar that never ends, and the restricted level refuses its init container."""
    templates = pod_templates(rendered(overlay))
    assert len(templates) >= 4
    for name, template in templates:
        assert template["metadata"]["labels"]["sidecar.istio.io/inject"] == "false", name


CILIUM = "resources: [MANIFESTS/overlays/cpu]\ncomponents: [MANIFESTS/components/cilium]\n"


def test_on_cilium_the_component_gives_what_an_ipblock_does_not(tmp_path):
    plain, objects = rendered("cpu"), build(tmp_path / "cilium", CILIUM)
    refused = {
        name
        for name, (source, target, port, protocol, wanted) in FLOWS.items()
        if wanted and not allowed(policies(plain), source, target, port, protocol, cilium=True)
    }
    nodes = {name for name, (_, target, *_, wanted) in FLOWS.items() if wanted and target in (API_SERVER, NODE_DNS)}
    assert refused == nodes and len(nodes) == 5
    found = {
        name: allowed(policies(objects), source, target, port, protocol, cilium=True)
        for name, (source, target, port, protocol, _) in FLOWS.items()
    }
    assert found == {name: wanted for name, (*_, wanted) in FLOWS.items()}
    for one in objects:
        if one["kind"] == "CiliumNetworkPolicy":
            check(one)
            assert one["metadata"]["namespace"] == HERE


OWN = """
resources: [MANIFESTS/overlays/cpu]
patches:
  - target: {kind: Destinations}
    patch: |-
      - {op: replace, path: /object-store, value: [{to: [{ipBlock: {cidr: 10.9.0.0/24}}], ports: [{port: 7480, endPort: 7482}]}]}
      - {op: replace, path: /dns, value: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: dns}}}], ports: [{port: 8053, protocol: UDP}]}]}
"""


def test_an_overlay_s_destinations_replace_the_defaults(tmp_path):
    """Component `network` comes after the patch: kustomize applies the patches of an overlay after its components."""
    build(tmp_path / "destinations", OWN)
    objects = build(tmp_path / "overlay", "resources: [../destinations]\ncomponents: [MANIFESTS/components/network]\n")
    held, store = policies(objects), Peer(ip="10.9.0.7")
    assert allowed(held, RANK, store, 7481) and not allowed(held, RANK, store, 7483) and not allowed(held, RANK, S3, 443)
    assert allowed(held, TASK, pod("dns", {}), 8053, "UDP") and not allowed(held, TASK, COREDNS, 53, "UDP")
    assert allowed(held, TASK, KFP_API, 8887)
    assert not [one for one in objects if one["kind"] == "Destinations"], "it is read, never applied"


RULE = [{"from": [{"podSelector": {"matchLabels": {"a": "1"}}}], "ports": [{"port": "web"}]}]
BOTH = [{"namespaceSelector": {"matchLabels": {"n": "2"}}, "podSelector": {"matchLabels": {"a": "1"}}}]
EITHER = [{"namespaceSelector": {"matchLabels": {"n": "2"}}}, {"podSelector": {"matchLabels": {"a": "1"}}}]


def policy(**spec) -> dict:
    return {"kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": HERE}, "spec": {"podSelector": {}, **spec}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, "near far address"),  # no policy: everything is allowed
        ({"policyTypes": ["Ingress"]}, ""),
        ({"policyTypes": ["Egress"]}, "far address"),  # it isolates the near pod, which is of its namespace, in the other direction
        ({"podSelector": {"matchLabels": {"b": "1"}}, "policyTypes": ["Ingress"]}, "near far address"),  # selects another pod
        ({"ingress": [{}]}, "near far address"),  # an empty rule allows everyone
        ({"ingress": [{"ports": [{"port": 80, "protocol": "UDP"}]}]}, ""),
        ({"ingress": [{"ports": [{"port": 70, "endPort": 90}]}]}, "near far address"),
        ({"ingress": RULE}, "near"),  # a podSelector alone is of the policy's own namespace; a named port is the target's
        ({"ingress": [{"from": BOTH}]}, "far"),
        ({"ingress": [{"from": EITHER}]}, "near far"),
        ({"ingress": [{"from": [{"namespaceSelector": {}}]}]}, "near far"),  # every pod, no address
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]}, "address"),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.7/32"]}}]}]}, ""),
        ({"ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["2"]}]}}]}]}, "near"),
        ({"ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}}]}]}, ""),
    ],
)
def test_the_evaluator_follows_the_documented_rules(spec, expected):
    target = pod(HERE, {"a": "3"}, {"web": 80})
    sources = {"near": pod(HERE, {"a": "1"}), "far": pod("far", {"a": "1"}, namespace_labels={"n": "2"}), "address": Peer(ip="192.0.2.7")}
    held = [policy(**spec)] if spec is not None else []
    assert " ".join(name for name, source in sources.items() if allowed(held, source, target, 80)) == expected
