"""The overlays as rendered by `kubectl kustomize`: strict schemas, digests, selectors, restricted level, least privilege, names as in the code."""

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from moworld.inference.player.server import METRICS
from moworld_ops.components.platform.images import LOCK, image
from moworld_ops.components.platform.preflight import Requirements, quantity, quota_usage
from moworld_ops.components.platform.serving import write_patch
from moworld_ops.pipelines import profile
from moworld_ops.pipelines.placement import DATABASE_KEY, SIGNING_KEYS, STORE_KEYS, requirements_of
from tests.cluster import check_custom, strict
from tests.manifests.network import Peer, matches
from tests.manifests.rendering import ALL_OVERLAYS, KUBECTL, OVERLAYS, ROOT, of_kind, rendered

KUBERNETES = "1.32"
CUSTOM = {"Queue", "ClusterTrainingRuntime"}
REDUCED = {"ExternalSecret": "externalsecret.yaml", "Application": "application.yaml", "CiliumNetworkPolicy": "ciliumnetworkpolicy.yaml"}
# labels of pods from elsewhere: KFP's run pods and its artifact server, JobSet's ranks, and a captioner that a team runs itself
FOREIGN_LABELS = {"pipeline/runid", "jobset.sigs.k8s.io/jobset-name", "moworld.io/serves", "moworld.io/uses-database", "app"}


def pod_templates(objects: list[dict]) -> list[tuple[str, dict]]:
    """Returns (name, pod template) of every object that creates pods."""
    found = []
    for one in objects:
        name, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            found.append((name, spec["template"]))
        elif one["kind"] == "CronJob":
            found.append((name, spec["jobTemplate"]["spec"]["template"]))
        elif one["kind"] == "ClusterTrainingRuntime":
            found += [(name, job["template"]["spec"]["template"]) for job in spec["template"]["spec"]["replicatedJobs"]]
        elif one["kind"] == "Pod":
            found.append((name, one))
    return found


def containers(template: dict) -> list[dict]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


@cache
def check_text(text: str) -> None:
    check(json.loads(text))


def check(one: dict) -> None:
    """Checks an object against the schema of its kind; raises for an unknown field or a wrong type."""
    if one["kind"] in CUSTOM:
        check_custom(one)
    elif one["kind"] in REDUCED:
        strict(yaml.safe_load((Path(__file__).parent / "schemas" / REDUCED[one["kind"]]).read_text()), one, one["kind"])
    else:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", ALL_OVERLAYS)
def test_every_object_satisfies_the_schema_of_its_kind(overlay):
    for one in rendered(overlay):
        check_text(json.dumps(one, sort_keys=True))  # overlays share most objects: each is checked once
    kinds = {one["kind"] for one in rendered(overlay)}
    assert {"Namespace", "NetworkPolicy", "ResourceQuota", "Deployment", "HorizontalPodAutoscaler"} <= kinds
    assert overlay.startswith("ascend") == ("Queue" in kinds)


def test_a_misspelt_field_and_a_wrong_type_are_found():
    deployment = json.loads(json.dumps(of_kind("cpu", "Deployment")[0]))
    deployment["spec"]["replicsa"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        check(deployment)
    runtime = json.loads(json.dumps(of_kind("ascend-910b", "ClusterTrainingRuntime")[0]))
    runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["schedularName"] = "volcano"
    with pytest.raises(AssertionError, match="not known"):
        check(runtime)


def test_the_argo_cd_application_points_at_an_overlay():
    application = yaml.safe_load((ROOT / "argocd" / "application.yaml").read_text())
    check(application)
    assert (ROOT.parent / application["spec"]["source"]["path"] / "kustomization.yaml").is_file()
    assert application["spec"]["destination"]["namespace"] == "moworld"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_image_is_the_lock_s_digest(overlay):
    known = {image(name) for name in json.loads(LOCK.read_text())}
    for name, template in pod_templates(rendered(overlay)):
        for container in containers(template):
            assert container["image"] in known, f"{name}: {container['image']}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_satisfies_the_restricted_level(overlay):
    (namespace,) = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    templates = pod_templates(rendered(overlay))
    assert len(templates) == (5 if overlay == "cpu" else 6)
    for name, template in templates:
        assert restricted(template) == [], name
        for container in containers(template):
            if not name.startswith("ClusterTrainingRuntime"):  # the TrainJob sets the pool's resources
                assert {"requests", "limits"} <= set(container["resources"]), name


def restricted(template: dict) -> list[str]:
    """Returns what in a pod violates the restricted level of the pod security standards, or our read-only root."""
    spec, broken = template["spec"], []
    pod = spec.get("securityContext", {})
    broken += [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    for volume in spec.get("volumes", []):
        kind = next(key for key in volume if key != "name")
        if kind not in {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}:
            broken.append(f"volume {kind}")
    for container in containers(template):
        own = container.get("securityContext", {})
        both = {**pod, **own}
        wanted = {
            "runAsNonRoot": both.get("runAsNonRoot") is True and both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities", {}).get("drop") == ["ALL"] and not own.get("capabilities", {}).get("add"),
            "privileged": not own.get("privileged"),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
        }
        broken += [f"{container['name']}: {key}" for key, held in wanted.items() if not held]
    return broken


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda spec: spec.update(hostNetwork=True), "hostNetwork"),
        (lambda spec: spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "volume hostPath"),
        (lambda spec: spec["securityContext"].update(runAsUser=0), "player: runAsNonRoot"),
        (lambda spec: spec["securityContext"].pop("seccompProfile"), "player: seccompProfile"),
        (
            lambda spec: spec["containers"][0]["securityContext"].update(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
            "player: capabilities",
        ),
    ],
)
def test_a_pod_that_breaks_the_level_is_found(change, words):
    (player,) = [
        one for one in json.loads(json.dumps(rendered("cpu"))) if one["kind"] == "Deployment" and one["metadata"]["name"] == "player"
    ]
    change(player["spec"]["template"]["spec"])
    assert words in restricted(player["spec"]["template"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_selector_matches_an_existing_pod(overlay):
    labels = [template.get("metadata", {}).get("labels", {}) for _, template in pod_templates(rendered(overlay))]

    def matches(selector: dict) -> bool:
        keys = set(selector.get("matchLabels", {})) | {one["key"] for one in selector.get("matchExpressions", [])}
        return not keys or keys <= FOREIGN_LABELS or any(selector.get("matchLabels", {}).items() <= one.items() for one in labels)

    checked = 0
    for one in rendered(overlay):
        name, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec", {})
        if one["kind"] == "Service":
            assert matches({"matchLabels": spec["selector"]}), name
        elif one["kind"] in ("PodDisruptionBudget", "Deployment"):
            assert matches(spec["selector"]), name
        elif one["kind"] == "NetworkPolicy":
            peers = [
                peer
                for rule in (*spec.get("ingress", []), *spec.get("egress", []))
                for peer in (*rule.get("from", []), *rule.get("to", []))
            ]
            for selector in (spec["podSelector"], *(peer["podSelector"] for peer in peers if "podSelector" in peer)):
                assert matches(selector), f"{name}: {selector}"
        elif one["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            assert any(o["kind"] == target["kind"] and o["metadata"]["name"] == target["name"] for o in rendered(overlay)), name
        else:
            continue
        checked += 1
    assert checked >= 10


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_reference_resolves(overlay):
    """Service accounts, roles and service ports; secrets in overlays with External Secrets."""
    objects = rendered(overlay)
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for one in objects:
        if one["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            assert (one["roleRef"]["kind"], one["roleRef"]["name"]) in names
            for subject in one["subjects"]:
                assert ("ServiceAccount", subject["name"]) in names and subject["namespace"] == "moworld"
        if one["kind"] == "Service":
            (template,) = [
                t for _, t in pod_templates(objects) if one["spec"]["selector"].items() <= t.get("metadata", {}).get("labels", {}).items()
            ]
            ports = {port["name"] for container in containers(template) for port in container.get("ports", [])}
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= ports
    for name, template in pod_templates(objects):
        assert ("ServiceAccount", template["spec"].get("serviceAccountName")) in names or name.startswith("ClusterTrainingRuntime"), name
        for secret, key in secrets_of(template):
            if overlay != "cpu":
                found = [one for one in objects if one["kind"] == "ExternalSecret" and one["spec"]["target"]["name"] == secret]
                assert found and key in {entry["secretKey"] for entry in found[0]["spec"]["data"]}, f"{name}: {secret}/{key}"


def secrets_of(template: dict) -> list[tuple[str, str]]:
    found = [
        (entry["valueFrom"]["secretKeyRef"]["name"], entry["valueFrom"]["secretKeyRef"]["key"])
        for container in containers(template)
        for entry in container.get("env", [])
        if "secretKeyRef" in entry.get("valueFrom", {})
    ]
    for volume in template["spec"].get("volumes", []):
        found += [(volume["secret"]["secretName"], item["key"]) for item in volume.get("secret", {}).get("items", [])]
    return found


def test_the_manifests_have_what_the_profile_requires():
    """Profile, code and manifests use the same names."""
    wanted = requirements_of(profile.load("wan22-a14b")[1])
    names = {(one["kind"], one["metadata"]["name"]): one for one in rendered("ascend-910b")}
    for queue in wanted["queues"]:
        assert ("Queue", queue) in names
    for runtime in wanted["runtimes"]:
        assert ("ClusterTrainingRuntime", runtime) in names
    for claim in wanted["claims"]:
        assert names["PersistentVolumeClaim", claim]["spec"]["accessModes"] == ["ReadWriteMany"]
    kept = {"moworld-object-store": STORE_KEYS, "moworld-signing": SIGNING_KEYS, "moworld-mlflow": [DATABASE_KEY]}
    assert set(kept) == set(wanted["secrets"])
    for secret, keys in kept.items():
        assert {entry["secretKey"] for entry in names["ExternalSecret", secret]["spec"]["data"]} == set(keys)
    (preflight,) = [names["Role", "moworld-preflight"]]
    readable = {name for rule in preflight["rules"] for name in rule.get("resourceNames", [])}
    assert readable == {*wanted["claims"], *wanted["secrets"]} - {*wanted["variables"]}


def test_the_manifests_without_npus_have_what_their_profile_requires():
    wanted = requirements_of(profile.load("pocket")[1])
    names = {(one["kind"], one["metadata"]["name"]) for one in rendered("cpu")}
    assert wanted["runtimes"] == [name for kind, name in names if kind == "ClusterTrainingRuntime"]
    assert ("PersistentVolumeClaim", *wanted["claims"]) in names and wanted["queues"] == []


@pytest.mark.parametrize(("overlay", "name"), [("ascend-910b", "wan22-a14b"), ("cpu", "pocket")])
def test_the_quota_has_room_for_every_step_of_the_profile(overlay, name):
    quotas = [one["spec"]["hard"] for one in of_kind(overlay, "ResourceQuota") if one["metadata"]["name"] != "player"]
    steps = Requirements(**requirements_of(profile.load(name)[1])).pods
    assert any(len(pods) > 1 for pods in steps)  # jobs and their launcher
    for pods in steps:
        used = quota_usage(pods)
        for quota in quotas:
            assert {key: used[key] for key in quota if key in used and used[key] > quantity(quota[key])} == {}
        assert {"requests.cpu", "limits.memory", "pods"} <= set(used)


def test_permissions_are_minimal():
    for one in rendered("ascend-910b"):
        for rule in one.get("rules", []) if one["kind"] in ("Role", "ClusterRole") else []:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], one["metadata"]["name"]
            assert "secrets" not in rule["resources"] or (rule["resourceNames"] and rule["verbs"] == ["get"]), one["metadata"]["name"]
            if one["kind"] == "ClusterRole":
                assert set(rule["verbs"]) <= {"get", "list"}
    bound = {subject["name"] for one in rendered("ascend-910b") for subject in one.get("subjects", [])}
    assert bound == {"moworld-launcher", "moworld-reaper", "moworld-leftovers"}  # the player and MLflow have no permissions
    for name, template in pod_templates(rendered("ascend-910b")):
        if template["spec"].get("serviceAccountName") not in bound:
            assert template["spec"]["automountServiceAccountToken"] is False, name


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("secret", ("moworld-signing", "moworld-mlflow"))
def test_no_account_may_read_the_signing_key_and_the_database_s_password(overlay, secret):
    """The kubelet mounts it for two tasks (tests/moworld_ops/pipelines); TrainJobs, which a launcher writes, cannot mount it."""
    readers = [
        one["metadata"]["name"]
        for one in rendered(overlay)
        for rule in one.get("rules", [])
        if "secrets" in rule["resources"] and secret in rule.get("resourceNames", [secret])
    ]
    assert readers == []
    (policy,), (binding,) = of_kind(overlay, "ValidatingAdmissionPolicy"), of_kind(overlay, "ValidatingAdmissionPolicyBinding")
    assert policy["spec"]["failurePolicy"] == "Fail" and binding["spec"]["validationActions"] == ["Deny"]
    assert binding["spec"]["policyName"] == policy["metadata"]["name"] and "matchResources" not in binding["spec"]
    (kept,) = [one for one in policy["spec"]["variables"] if one["name"] == "kept"]
    assert kept["expression"] == "['moworld-signing', 'moworld-mlflow']"
    assert [len(one["expression"].split("variables.kept")) for one in policy["spec"]["validations"]] == [3, 3]


def test_the_reaper_may_do_what_it_does_and_nothing_else():
    (template,) = [template for name, template in pod_templates(rendered("cpu")) if name == "Deployment/reaper"]
    assert template["spec"]["serviceAccountName"] == "moworld-reaper"
    rules = [rule for one in of_kind("cpu", "Role") if one["metadata"]["name"] == "moworld-reaper" for rule in one["rules"]]
    allowed = {(group, kind, verb) for rule in rules for group in rule["apiGroups"] for kind in rule["resources"] for verb in rule["verbs"]}
    jobs = "trainer.kubeflow.org", "trainjobs"
    assert allowed == {(*jobs, "list"), (*jobs, "delete"), ("argoproj.io", "workflows", "list")}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_starts_no_rank_again_on_its_own(overlay):
    """The other ranks would wait for it: a step's retry starts the whole gang from its checkpoint."""
    runtimes = of_kind(overlay, "ClusterTrainingRuntime")
    assert runtimes
    for runtime in runtimes:
        spec = runtime["spec"]["template"]["spec"]
        assert spec["failurePolicy"] == {"maxRestarts": 0}, runtime["metadata"]["name"]
        for job in spec["replicatedJobs"]:
            assert job["template"]["spec"]["backoffLimit"] == 0, runtime["metadata"]["name"]
            assert job["template"]["spec"]["template"]["spec"]["restartPolicy"] == "Never", runtime["metadata"]["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_traffic_is_denied_unless_a_rule_allows_it(overlay):
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(overlay, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in (*spec.get("ingress", []), *spec.get("egress", [])):
            assert rule.get("from") or rule.get("to"), f"{name} allows everyone"
            for peer in (*rule.get("from", []), *rule.get("to", [])):
                if "ipBlock" in peer:
                    reached = Peer(ip="169.254.169.254")
                    policy = {"metadata": {"namespace": "moworld"}, "spec": {}}
                    assert not matches(peer, policy, reached, cilium=False), f"{name} allows the cloud's metadata service"
                    assert rule["ports"], name


def test_ranks_keep_the_host_s_users():
    """In a user namespace the devices of an Ascend node would not belong to user 1000."""
    for name, template in pod_templates(rendered("ascend-910b")):
        assert not name.startswith("ClusterTrainingRuntime") or "hostUsers" not in template["spec"], name


@pytest.mark.parametrize("overlay", ("ascend-910b", "ascend-a3"))
def test_every_npu_pod_uses_volcano_and_tolerates_the_taint(overlay):
    requests = 0
    for name, template in pod_templates(rendered(overlay)):
        wants = any("huawei.com/Ascend910" in c.get("resources", {}).get("limits", {}) for c in containers(template))
        if not wants and not name.startswith("ClusterTrainingRuntime"):
            continue
        requests += 1
        assert template["spec"]["schedulerName"] == "volcano", name
        assert template["metadata"]["labels"]["ring-controller.atlas"] == "ascend-910b", name
        assert {"key": "huawei.com/Ascend910", "operator": "Exists", "effect": "NoSchedule"} in template["spec"]["tolerations"], name
    assert requests == 3


def test_dashboards_and_alerts_use_existing_metrics():
    """Names of the player from its table; names of the NPU exporter as it publishes them."""
    player = {f"moworld_player_{name}" for name in METRICS}
    exporter = {f"npu_chip_info_{name}" for name in ("utilization", "temperature", "power", "voltage", "health_status", "error_code",
                "hbm_used_memory", "hbm_total_memory", "used_memory", "total_memory", "name")}  # fmt: skip
    configs = {one["metadata"]["name"]: one["data"] for one in of_kind("cpu", "ConfigMap")}
    board = json.loads(configs["moworld-dashboard"]["dashboard.json"])
    rules = yaml.safe_load(configs["moworld-prometheus"]["rules.yaml"])["groups"][0]["rules"]
    requests = [target["expr"] for panel in board["panels"] for target in panel["targets"]] + [rule["expr"] for rule in rules]
    used = {name for expr in requests for name in re.findall(r"(?:npu_chip_info|moworld_player)_[a-z_]+", expr)}
    assert used <= player | exporter, used - player - exporter
    assert {"moworld_player_fps", "npu_chip_info_utilization"} <= used
    assert all(rule["for"] and rule["labels"]["severity"] and rule["annotations"]["summary"] for rule in rules)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_a_promotion_s_patch_updates_the_player_of_each_overlay(tmp_path):
    from moworld_ops.components.platform.registry import Version

    version = Version("moworld-pocket", "7", ("champion",), "run", "source", {"model_sha256": "ab" * 32})
    for overlay in OVERLAYS:
        folder = tmp_path / overlay
        folder.mkdir()
        write_patch(folder / "player.yaml", version)
        base = os.path.relpath(ROOT / "overlays" / overlay, folder)
        (folder / "kustomization.yaml").write_text(f"resources: [{base}]\npatches: [{{path: player.yaml}}]\n")
        done = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (player,) = [one for one in yaml.safe_load_all(done.stdout) if one["kind"] == "Deployment" and one["metadata"]["name"] == "player"]
        kubernetes_validate.validate(player, KUBERNETES, strict=True)
        template = player["spec"]["template"]
        (fetch,) = template["spec"]["initContainers"]
        assert {"name": "MOWORLD_MODEL", "value": "moworld-pocket@7"} in fetch["env"] and "@sha256:" in fetch["image"]
        assert template["metadata"]["annotations"]["moworld/model-sha256"] == "ab" * 32
