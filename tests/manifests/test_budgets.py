"""What pods request and what limits them: quotas, Volcano's queues, priorities."""



import pytest
from kubernetes.utils.quantity import parse_quantity

from moworld_ops.pipelines import profile
from moworld_ops.pipelines.placement import Cluster
from tests.manifests.rendering import OVERLAYS, of_kind, rendered
from tests.manifests.test_manifests import pod_templates
from tests.manifests.test_network import build

NPU = "huawei.com/Ascend910"
DRIVER = {"cpu": parse_quantity("0.5"), "memory": parse_quantity("512Mi")}  # of KFP, at the limits that LimitRange gives a container


def named(overlay: str, kind: str, name: str) -> dict:
    (found,) = [one for one in of_kind(overlay, kind) if one["metadata"]["name"] == name]
    return found


def limits(template: dict) -> dict:
    """Returns what a pod counts in a quota: its containers together, or the largest init container if that is more."""
    spec = template["spec"]

    def total(some: list[dict], key: str):
        return [parse_quantity(one["resources"]["limits"][key]) for one in some]

    return {key: max([sum(total(spec["containers"], key)), *total(spec.get("initContainers", []), key)]) for key in ("cpu", "memory")}


@pytest.mark.parametrize("overlay", ("ascend-910b", "ascend-a3"))
def test_no_quota_refuses_what_a_queue_lets_wait(overlay):
    for quota in of_kind(overlay, "ResourceQuota"):
        assert set(quota["spec"]["hard"]) == {"pods", "persistentvolumeclaims"}, "a quota counts pending pods"


@pytest.mark.parametrize("overlay", ("ascend-910b", "ascend-a3"))
def test_every_pod_on_npus_is_in_a_queue_of_its_own_kind_and_the_player_s_holds_it(overlay):
    (player,) = [template for name, template in pod_templates(rendered(overlay)) if name == "Deployment/player"]
    queue = named(overlay, "Queue", player["metadata"]["annotations"]["scheduling.volcano.sh/queue-name"])
    one = int(player["spec"]["containers"][0]["resources"]["requests"][NPU])
    assert int(queue["spec"]["capability"][NPU]) >= one * named(overlay, "HorizontalPodAutoscaler", "player")["spec"]["maxReplicas"]
    pools = profile.load("wan22-a14b")[1].resources.pools.values()
    queues = {pool.queue for pool in pools if pool.kind == "trainjob"}
    assert queue["metadata"]["name"] not in queues and "" not in queues
    assert queues <= {one["metadata"]["name"] for one in of_kind(overlay, "Queue")}


def test_a_pool_requests_as_much_of_a_node_as_of_its_accelerators():
    pools = {name: pool for name, pool in profile.load("wan22-a14b")[1].resources.pools.items() if pool.kind == "trainjob"}
    assert {parse_quantity(pool.cpu) / pool.procs_per_node for pool in pools.values()} == {20}
    assert {parse_quantity(pool.memory) / pool.procs_per_node for pool in pools.values()} == {128 * 2**30}


def test_kueue_s_queues_have_the_room_of_volcano_s_and_the_shares_of_a_node(tmp_path):
    objects = build(tmp_path / "kueue", "resources: [MANIFESTS/overlays/ascend-910b]\ncomponents: [MANIFESTS/components/kueue]\n")
    capability = {one["metadata"]["name"]: int(one["spec"]["capability"][NPU]) for one in objects if one["kind"] == "Queue"}
    local = {one["metadata"]["name"]: one["spec"]["clusterQueue"] for one in objects if one["kind"] == "LocalQueue"}
    assert set(local) == {"high-noise", "low-noise"}
    for one in objects:
        if one["kind"] == "ClusterQueue":
            (group,) = one["spec"]["resourceGroups"]
            quota = {found["name"]: parse_quantity(found["nominalQuota"]) for flavor in group["flavors"] for found in flavor["resources"]}
            (name,) = [queue for queue, target in local.items() if target == one["metadata"]["name"]]
            assert set(group["coveredResources"]) == set(quota) == {NPU, "cpu", "memory"}
            assert quota[NPU] == capability[name] and quota["cpu"] == 20 * quota[NPU] and quota["memory"] == 128 * 2**30 * quota[NPU]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_player_yields_to_runs(overlay):
    names = {name: template["spec"].get("priorityClassName", "") for name, template in pod_templates(rendered(overlay))}
    assert {name for name, found in names.items() if found} == {"Deployment/player"}
    found = named(overlay, "PriorityClass", names["Deployment/player"])
    assert found["value"] < 0 and found["preemptionPolicy"] == "Never" and not found.get("globalDefault")


def test_without_queues_the_player_s_quota_is_apart_from_the_runs():
    quotas = {one["metadata"]["name"]: one["spec"] for one in of_kind("cpu", "ResourceQuota")}
    (mine,), (theirs,) = ([*quotas[name]["scopeSelector"]["matchExpressions"]] for name in ("player", "runs"))
    assert mine == {"scopeName": "PriorityClass", "operator": "In", "values": ["moworld-player"]}
    assert theirs == mine | {"operator": "NotIn"}
    assert set(quotas["moworld"]["hard"]) == {"pods", "persistentvolumeclaims"}, "no scope: it counts all pods"


def test_without_queues_the_quotas_hold_a_busy_player_and_a_run_of_the_profile():
    templates = dict(pod_templates(rendered("cpu")))
    quotas = {one["metadata"]["name"]: one["spec"]["hard"] for one in of_kind("cpu", "ResourceQuota")}
    busy = named("cpu", "HorizontalPodAutoscaler", "player")["spec"]["maxReplicas"] + 1  # one more while an update is rolled out
    resources = profile.load("pocket")[1].resources
    launcher = Cluster(resources).resources.launcher
    for key, small in (("cpu", launcher.cpu_limit), ("memory", launcher.memory_limit)):
        player = limits(templates["Deployment/player"])[key]
        assert player * busy <= parse_quantity(quotas["player"][f"limits.{key}"])
        steps = [[parse_quantity(getattr(pool, key)) * getattr(pool, "nodes", 1) for pool in pools] for pools in resources.used_pools()]
        run = 2 * max(sum(pods) for pods in steps) + 2 * parse_quantity(small) + 4 * DRIVER[key]  # two tasks at once, with their drivers
        replicas = named("cpu", "Deployment", "reaper")["spec"]["replicas"]
        others = sum(limits(templates[name])[key] for name in ("Deployment/mlflow", *["Deployment/reaper"] * replicas, "CronJob/leftovers"))
        assert run + others <= parse_quantity(quotas["runs"][f"limits.{key}"]), key
