"""Evaluates network policies as Kubernetes documents them: is a connection between two pods, or to an address, allowed?

Policies only add permissions. A pod that no policy selects in a direction may talk to anyone in that direction; a connection needs both
ends to allow it. With `cilium=True` an ipBlock matches neither pods nor nodes, and CiliumNetworkPolicies with `toEntities` count.
"""

import ipaddress
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod with its namespace, or an address outside (labels and namespace None).

    ports:  names of container ports, with their numbers
    entity: what Cilium calls an address: kube-apiserver, host, world; "" for a pod
    """

    ip: str = "10.244.0.9"
    labels: dict | None = None
    namespace: str | None = None
    namespace_labels: dict = field(default_factory=dict)
    ports: dict = field(default_factory=dict)
    entity: str = ""


def pod(namespace: str, labels: dict, ports: dict | None = None, namespace_labels: dict | None = None) -> Peer:
    """Returns a pod; its namespace has the label that Kubernetes gives it."""
    own = {"kubernetes.io/metadata.name": namespace, **(namespace_labels or {})}
    return Peer(labels=labels, namespace=namespace, namespace_labels=own, ports=ports or {})


def selects(selector: dict, labels: dict) -> bool:
    """Returns whether a label selector matches; an empty one matches everything."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions") or []:
        key, operator, values = term["key"], term["operator"], term.get("values", [])
        held = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not held:
            return False
    return True


def allowed(policies: list[dict], source: Peer, target: Peer, port: int, protocol: str = "TCP", cilium: bool = False) -> bool:
    """Returns whether `source` may open a connection to this port of `target`."""
    leaves = _one_side(policies, "Egress", source, target, target, port, protocol, cilium)
    return leaves and _one_side(policies, "Ingress", target, source, target, port, protocol, cilium)


def _one_side(
    policies: list[dict], direction: str, subject: Peer, other: Peer, target: Peer, port: int, protocol: str, cilium: bool
) -> bool:
    if subject.labels is None:
        return True  # policies apply to pods only
    isolated = False
    for policy in policies:
        spec = policy["spec"]
        if policy["metadata"]["namespace"] != subject.namespace:
            continue
        if policy["kind"] == "CiliumNetworkPolicy":
            if not cilium or not selects(spec["endpointSelector"], subject.labels) or direction.lower() not in spec:
                continue
            isolated = True
            if direction == "Egress" and any(_entity_rule(rule, other, port, protocol) for rule in spec["egress"]):
                return True
            continue
        if direction not in _types(spec) or not selects(spec["podSelector"], subject.labels):
            continue
        isolated = True
        for rule in spec.get(direction.lower()) or []:
            peers = rule.get("to" if direction == "Egress" else "from")
            if _ports(rule.get("ports"), target, port, protocol) and (
                not peers or any(matches(one, policy, other, cilium) for one in peers)
            ):
                return True
    return not isolated


def _types(spec: dict) -> list[str]:
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]


def _ports(ports: list[dict] | None, target: Peer, port: int, protocol: str) -> bool:
    """Returns whether a rule's ports have this one; no list means every port."""
    if not ports:
        return True
    for one in ports:
        wanted = one.get("port")
        first = target.ports.get(wanted) if isinstance(wanted, str) else wanted
        if one.get("protocol", "TCP") != protocol or (wanted is not None and first is None):
            continue
        if wanted is None or first <= port <= one.get("endPort", first):
            return True
    return False


def matches(one: dict, policy: dict, other: Peer, cilium: bool) -> bool:
    """Returns whether a peer of a policy's rule is this end of a connection."""
    if "ipBlock" in one:
        if cilium and (other.labels is not None or other.entity in ("kube-apiserver", "host")):
            return False
        address = ipaddress.ip_address(other.ip)
        block = one["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(cut) for cut in block.get("except", [])
        )
    if other.labels is None:
        return False
    if "namespaceSelector" in one:
        return selects(one["namespaceSelector"], other.namespace_labels) and selects(one.get("podSelector", {}), other.labels)
    return other.namespace == policy["metadata"]["namespace"] and selects(one["podSelector"], other.labels)


def _entity_rule(rule: dict, other: Peer, port: int, protocol: str) -> bool:
    ports = [one for group in rule.get("toPorts", []) for one in group["ports"]]
    fits = any(int(one["port"]) == port and one["protocol"] in (protocol, "ANY") for one in ports)
    return fits and other.entity in rule.get("toEntities", [])
