"""A Kubeflow Pipelines API server (v2beta1) for tests, on loopback: stores pipelines, versions, runs and schedules, checks IR and parameters.

Each read of a run advances it by one task, in the order of the IR. Tasks named in `fails` fail with a message that, as in KFP 2.17, only the
Workflow has: its nodes, `error` being null, and the state FAILED of a terminated run are what a real KFP 2.17.0 answered.
"""

import gzip
import json
import re
import sys
import threading
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

TERMINAL = {"SUCCEEDED", "FAILED", "CANCELED"}
NEVER = "0001-01-01T00:00:00Z"  # of a node that has not ended


class KubeflowApi(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.RLock()
        self.count = 0
        self.experiments: list[dict] = []
        self.pipelines: list[dict] = []
        self.versions: list[dict] = []
        self.runs: list[dict] = []
        self.schedules: list[dict] = []
        self.fails: set[str] = set()
        self.attempts: dict[str, int] = {}  # pods of a task; 1 for any other
        self.keeps_workflows = True  # False: the older API, which has the Workflow, is not served
        self.artifacts: dict[str, bytes] = {}  # by URI; KFP's page server returns them
        self.retries = True  # False: runs cannot be retried, as those whose Workflow's nodes are kept elsewhere
        self.packed = False  # Argo compresses the nodes of a large Workflow
        self.fault: Callable[[str, str], str] = lambda method, path: ""
        self.requests: list[tuple[str, str]] = []
        self.page = 100
        self.token = ""  # if set, requests without it are refused, as in multi-user Kubeflow

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that disconnect, which is part of the tests; any other error is a bug of this server."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def new_id(self, kind: str) -> str:
        self.count += 1
        return f"{kind}-{self.count:04d}"

    def now(self) -> str:
        """Returns a later time at each call: tests compare the order."""
        self.count += 1
        return datetime.fromtimestamp(1_800_000_000 + self.count, UTC).isoformat().replace("+00:00", "Z")

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        with self.lock:
            self.requests.append((method, path))
            if path.startswith("/apis/v1beta1/runs/") and self.keeps_workflows:
                found = next((one for one in self.runs if one["run_id"] == path.rpartition("/")[2]), None)
                status: dict[str, Any] = {"nodes": found and workflow_nodes(found, self.attempts)}
                if self.packed:
                    status = {"compressedNodes": b64encode(gzip.compress(json.dumps(status["nodes"]).encode())).decode()}
                manifest = json.dumps({"metadata": {"name": "w-1"}, "status": status})
                return 200 if found else 404, {"run": {}, "pipeline_runtime": {"workflow_manifest": manifest}}
            if path == "/artifacts/get":
                found = self.artifacts.get(f"{query['source']}://{query['bucket']}/{query['key']}")
                return (404, {}) if found is None or not query["namespace"] else (200, found)
            parts = path.removeprefix("/apis/v2beta1/").split("/")
            if parts == ["healthz"]:
                return 200, {"multi_user": False}
            if parts[0] == "pipelines":
                return self._pipelines(method, parts[1:], query, body)
            kind = {"experiments": self.experiments, "runs": self.runs, "recurringruns": self.schedules}.get(parts[0])
            if kind is None:
                return 404, {"message": f"no such method: {path}"}
            if method == "POST" and len(parts) == 1:
                return self._create(parts[0], kind, body)
            if method == "GET" and len(parts) == 1:
                return 200, self._page(parts[0], kind, query)
            name, _, verb = parts[1].partition(":")
            found = next((one for one in kind if name in one.values()), None)
            if found is None:
                return 404, {"message": f"{name} not found"}
            if method == "DELETE":
                kind.remove(found)
                return 200, {}
            return self._verb(found, verb) if verb else (200, self._advance(found) if kind is self.runs else found)

    def _pipelines(self, method: str, parts: list[str], query: dict[str, str], body: Any) -> tuple[int, Any]:
        if method == "GET" and not parts:
            return 200, self._page("pipelines", self.pipelines, query)
        if method == "GET" and parts[1:] == ["versions"]:
            return 200, self._page("pipeline_versions", [one for one in self.versions if one["pipeline_id"] == parts[0]], query)
        spec = next(document for document in yaml.safe_load_all(body) if document)
        try:
            json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        except json_format.ParseError as error:
            return 400, {"message": f"invalid IR: {error}"}
        name = query["name"]
        if parts == ["upload"]:
            if any(one["display_name"] == name for one in self.pipelines):
                return 409, {"message": f"pipeline {name} already exists"}
            made = {"pipeline_id": self.new_id("pipeline"), "display_name": name, "created_at": self.now()}
            self.pipelines.append(made)
            self._version(made["pipeline_id"], name, spec)
            return 200, made
        if any(one["display_name"] == name and one["pipeline_id"] == query["pipelineid"] for one in self.versions):
            return 409, {"message": f"version {name} already exists"}
        return 200, self._version(query["pipelineid"], name, spec)

    def _version(self, pipeline: str, name: str, spec: dict) -> dict:
        made = {"pipeline_id": pipeline, "pipeline_version_id": self.new_id("version"), "display_name": name, "pipeline_spec": spec}
        self.versions.append(made)
        return made

    def _create(self, kind: str, there: list[dict], body: dict) -> tuple[int, Any]:
        if kind == "experiments":
            made = {**body, "experiment_id": self.new_id("experiment"), "created_at": self.now()}
        else:
            reference = body["pipeline_version_reference"]
            version = next((one for one in self.versions if one["pipeline_version_id"] == reference["pipeline_version_id"]), None)
            if version is None:
                return 404, {"message": "no such pipeline version"}
            wanted = set(version["pipeline_spec"]["root"]["inputDefinitions"]["parameters"])
            if wanted != set(body["runtime_config"]["parameters"]):
                return 400, {"message": f"parameters {sorted(body['runtime_config']['parameters'])}, wanted {sorted(wanted)}"}
            key = "run_id" if kind == "runs" else "recurring_run_id"
            made = {**body, key: self.new_id(kind), "created_at": self.now(), "state": "PENDING"}
            if kind == "runs":
                made["_waiting"] = order_of(version["pipeline_spec"]["root"]["dag"]["tasks"])
                made["_tasks"] = []
                made["_spec"] = version["pipeline_spec"]
                made["finished_at"] = "1970-01-01T00:00:00Z"
                made["state_history"] = [{"update_time": made["created_at"], "state": "PENDING"}]
            else:
                made.pop("state")
        there.append(made)
        return 200, shown(made)

    def _page(self, kind: str, there: list[dict], query: dict[str, str]) -> dict:
        found = [one for one in there if query.get("experiment_id", one.get("experiment_id")) == one.get("experiment_id")]
        for predicate in json.loads(query.get("filter") or '{"predicates": []}')["predicates"]:
            assert predicate["operation"] in (1, "EQUALS"), predicate
            found = [one for one in found if one[predicate["key"]] == predicate["stringValue"]]
        if query.get("sort_by", "").endswith(" desc"):
            found = found[::-1]
        start = int(query.get("page_token") or 0)
        size = min(self.page, int(query.get("page_size") or self.page))
        more = {"next_page_token": str(start + size)} if start + size < len(found) else {}
        key = {"recurringruns": "recurringRuns"}.get(kind, kind)
        return {key: [shown(one) for one in found[start : start + size]], "total_size": len(found), **more}

    def _advance(self, run: dict) -> dict:
        """Advances a run by one task: the running one ends, the next one starts."""
        at_work = next((task for task in run["_tasks"] if task["state"] == "RUNNING"), None)
        if run["state"] in TERMINAL:
            return self._seen(run)
        if run["state"] == "CANCELING":
            self._end(run, "FAILED")
            if at_work:
                at_work.update(state="FAILED", end=self.now(), message="workflow shutdown with strategy:  Stop")
        elif at_work and at_work["name"] in self.fails:
            at_work.update(state="FAILED", end=self.now(), message="main: Error (exit code 1)")
            self._end(run, "FAILED")
        else:
            if at_work:
                at_work.update(state="SUCCEEDED", end=self.now())
            if run["_waiting"]:
                run["_tasks"].append({"name": run["_waiting"].pop(0), "state": "RUNNING", "start": self.now(), "end": NEVER})
                run["state"] = "RUNNING"
            else:
                self._end(run, "SUCCEEDED")
        return self._seen(run)

    def _end(self, run: dict, state: str) -> None:
        run.update(state=state, finished_at=self.now())
        run["state_history"].append({"update_time": run["finished_at"], "state": state})

    def _seen(self, run: dict) -> dict:
        answer = shown(run)
        if run["_tasks"]:
            answer["run_details"] = {"task_details": task_details(run, self.attempts)}
        return answer

    def _verb(self, run: dict, verb: str) -> tuple[int, Any]:
        if verb == "terminate":
            if run["state"] in TERMINAL:
                return 400, {"message": "the run has ended"}
            run["state"] = "CANCELING"
            run["state_history"].append({"update_time": self.now(), "state": "CANCELING"})
        elif verb == "retry":
            if not self.retries:
                return 400, {"message": "Cannot retry workflow with offloaded node status"}
            if run["state"] not in ("FAILED", "CANCELED"):
                return 400, {"message": f"a run that is {run['state']} cannot be retried"}
            again = [task["name"] for task in run["_tasks"] if task["state"] == "FAILED"]
            run["_tasks"] = [task for task in run["_tasks"] if task["state"] == "SUCCEEDED"]
            run["_waiting"] = again + run["_waiting"]
            run.update(state="RUNNING", finished_at="1970-01-01T00:00:00Z")
            run["state_history"].append({"update_time": self.now(), "state": "RUNNING"})
        else:
            return 404, {"message": f"no such verb {verb}"}
        return 200, {}


def order_of(tasks: dict[str, Any]) -> list[str]:
    """Returns the names of an IR's tasks, each after its dependencies."""
    done: list[str] = []
    while len(done) < len(tasks):
        free = [name for name, task in tasks.items() if name not in done and set(task.get("dependentTasks", [])) <= set(done)]
        assert free, "a cycle"
        done += sorted(free)
    return done


def shown(one: dict) -> dict:
    return {key: value for key, value in one.items() if not key.startswith("_") and value is not None}


def argo_nodes(run: dict, attempts: dict[str, int]) -> list[dict]:
    """Returns the nodes of a run's Workflow: under templateDefaults.retryStrategy each node is a Retry node with an attempt `(0)`.

    name is the path; the id has its hash.
    """
    found: list[dict] = []

    def add(path: str, task: dict, message: str = "", kind: str = "Pod") -> str:
        node = {"name": path, "id": argo_id(path), "displayName": path.rpartition(".")[2], "type": kind, "message": message, "children": []}
        found.append({**node, "state": task["state"], "start": task["start"], "end": task["end"]})
        return argo_id(path)

    whole = {"state": "RUNNING", "start": run["created_at"], "end": NEVER}
    for name in ("w-1", "w-1(0)", "w-1(0).root", "w-1(0).root(0)", "w-1(0).root-driver", "w-1(0).root-driver(0)"):
        add(name, whole)
    for task in run["_tasks"]:
        path, done = f"w-1(0).root(0).{task['name']}", {**task, "state": "SUCCEEDED", "end": task["start"]}
        add(path, task, kind="Retry")
        if task["name"] == "importer":
            add(f"{path}(0)", task, task.get("message", ""))
            continue
        for name in (f"{path}-driver", f"{path}-driver(0)"):
            add(name, done)
        add(f"{path}(0)", task)
        executor = add(f"{path}(0).executor", task, kind="Retry")
        count = attempts.get(task["name"], 1)
        pods = [add(f"{path}(0).executor({number})", {**task, "state": "FAILED"}, "pod deleted") for number in range(count - 1)]
        pods.append(add(f"{path}(0).executor({count - 1})", task, task.get("message", "")))
        next(node for node in found if node["id"] == executor)["children"] = pods
        next(node for node in found if node["name"] == f"{path}(0)")["children"] = [executor]
    return found


def argo_id(name: str) -> str:
    """Returns Argo's id of a node."""
    value = 2166136261
    for byte in name.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return "w-1" if name == "w-1" else f"w-1-{value}"


def task_details(run: dict, attempts: dict[str, int]) -> list[dict]:
    """Returns the nodes as KFP 2.17's API lists them, in no order that means anything, none with an error."""
    return [
        {
            "run_id": run["run_id"], "task_id": f"task-{number:04d}", "display_name": node["displayName"], "create_time": run["created_at"],
            "start_time": node["start"], "end_time": node["end"], "state": node["state"], "execution_id": "0", "error": None,
            "child_tasks": [{"pod_name": child} for child in node["children"]],
        }
        for number, node in enumerate(sorted(argo_nodes(run, attempts), key=lambda node: node["id"]))
    ]  # fmt: skip


def workflow_nodes(run: dict, attempts: dict[str, int]) -> dict[str, dict]:
    """Returns status.nodes of the run's Workflow."""
    phases = {"SUCCEEDED": "Succeeded", "FAILED": "Failed", "RUNNING": "Running"}
    return {
        node["id"]: {
            "name": node["name"],
            "type": node["type"],
            "phase": phases[node["state"]],
            "message": node["message"],
            "finishedAt": node["end"],
            "outputs": {"parameters": [{"name": "pod-spec-patch", "value": pod_of(run, task)}]} if task in run["_spec"]["root"]["dag"]["tasks"] else {},
        }
        for node in argo_nodes(run, attempts)
        for task in [re.sub(r"-driver(\(\d+\))?$", "", node["displayName"]) if "-driver" in node["displayName"] else ""]
    }


def pod_of(run: dict, task: str) -> str:
    """Returns output `pod-spec-patch` of a step's driver, as the sources of KFP 2.17 write it: the launcher's command has the outputs' URIs."""
    spec = run["_spec"]
    component = spec["components"][spec["root"]["dag"]["tasks"][task]["componentRef"]["name"]]
    names = [*component.get("outputDefinitions", {}).get("artifacts", {}), "executor-logs"]
    root = f"minio://mlpipeline/v2/artifacts/{spec['pipelineInfo']['name']}/{run['run_id']}/{task}/id"
    planned = {"outputs": {"artifacts": {name: {"artifacts": [{"name": name, "uri": f"{root}/{name}"}]} for name in names}}}
    command = ["/kfp-launcher/launch", "--run_id", run["run_id"], "--executor_input", json.dumps(planned), "--component_spec", "{}", "--", "sh"]
    return json.dumps({"containers": [{"name": "main", "command": command}]})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: KubeflowApi

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body: Any = _file(self.headers, data) if "multipart" in self.headers.get("Content-Type", "") else json.loads(data or "null")
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        fault = self.server.fault(self.command, parts.path)
        if self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            fault = "401"
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
            return
        code, answer = (
            (int(fault), {"message": "try again"}) if fault.isdigit() else self.server.answer(self.command, parts.path, query, body)
        )
        if fault == "lost":
            self.close_connection = True
            self.connection.close()
            return
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = handle_any

    def log_message(self, *args: Any) -> None:
        pass


def _file(headers: Message, data: bytes) -> bytes:
    """Returns the only file of a multipart body."""
    parsed = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + data)
    (part,) = [part for part in parsed.iter_parts() if re.search("filename", part["Content-Disposition"])]
    return part.get_payload(decode=True)
