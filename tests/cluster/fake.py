"""A Kubernetes API server for tests, on loopback: stores objects, validates TrainJobs, simulates their controller, and injects faults.

Each read of a TrainJob advances it one state along its `script`. Objects have uid and resourceVersion; a deletion honours
preconditions and takes several reads (deletionTimestamp), as with finalizers.
"""

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

CRDS = Path(__file__).parents[3] / "shared" / "crds"
FILES = {"TrainJob": "trainer-trainjobs", "ClusterTrainingRuntime": "trainer-clustertrainingruntimes", "Queue": "volcano-queues"}


def strict(schema: dict, value: Any, where: str) -> None:
    """Checks a value against a JSON schema and rejects unknown fields, as the API server does under strict validation."""
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        assert isinstance(value, int | str), where
    elif kind == "object":
        assert isinstance(value, dict), f"{where} is not an object"
        assert set(schema.get("required", [])) <= set(value), f"{where} lacks {set(schema.get('required', [])) - set(value)}"
        for key, inner in value.items():
            known = schema.get("properties", {})
            if key in known:
                strict(known[key], inner, f"{where}.{key}")
            elif "additionalProperties" in schema:
                strict(schema["additionalProperties"], inner, f"{where}.{key}")
            else:
                assert schema.get("x-kubernetes-preserve-unknown-fields"), f"{where}.{key} is not known"
    elif kind == "array":
        assert isinstance(value, list), f"{where} is not a list"
        for index, inner in enumerate(value):
            strict(schema["items"], inner, f"{where}[{index}]")
    elif kind in ("integer", "string", "boolean"):
        assert type(value) is {"integer": int, "string": str, "boolean": bool}[kind], f"{where}: {value!r} is not {kind}"
        assert value in schema.get("enum", [value]), f"{where}: {value!r} is none of {schema.get('enum')}"


@cache
def _definition(kind: str) -> dict:
    """Returns the spec of the CustomResourceDefinition of a kind, as its project publishes it."""
    text = (CRDS / f"{FILES[kind]}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]


def check_custom(body: dict) -> None:
    """Checks a custom resource against the schema of its kind and version; skips the test where the schemas are absent."""
    if not CRDS.is_dir():
        pytest.skip("the published schemas of custom resources are not beside this checkout")
    definition = _definition(body["kind"])
    group, version = body["apiVersion"].split("/")
    assert (group, body["kind"]) == (definition["group"], definition["names"]["kind"])
    schema = next(one for one in definition["versions"] if one["name"] == version)["schema"]["openAPIV3Schema"]
    metadata = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    strict({**schema, "properties": {**schema["properties"], "metadata": metadata}}, body, body["kind"])


class Script:
    """Course of a job: one of `states` per read (the last one stays), `lines` of the first rank's log, `pod` updates of the pods' status.

    earlier:    end of the name and the only line of a pod of the first rank that failed before
    pods_after: False if the pods are gone when the job has ended, as after a deadline
    """

    def __init__(
        self,
        *states: str,
        lines: tuple[str, ...] = (),
        pod: dict | None = None,
        condition: dict | None = None,
        earlier: tuple[str, str] | None = None,
        pods_after: bool = True,
    ) -> None:
        self.states, self.lines, self.pod, self.condition = states or ("", "Running", "Complete"), lines, pod or {}, condition or {}
        self.earlier, self.pods_after = earlier, pods_after


class Cluster(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that die during a request, which is part of the tests; any other error is a bug of this server."""
        if not isinstance(sys.exc_info()[1], ConnectionError | ValueError):  # ValueError: this server closed the file to lose a response
            super().handle_error(request, client_address)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.RLock()
        self.objects: dict[str, dict] = {}  # by path
        self.version = 0
        self.script: Callable[[dict], Script] = lambda job: Script()
        self.on_create: Callable[[dict], None] = lambda job: None
        self.fault: Callable[[str, str], str] = lambda method, path: ""
        self.openapi: dict | None = None  # of Trainer's group; None: as Trainer 2.2 publishes it
        self.suspended: dict = {  # status that Trainer gives a suspended job, with that of its JobSet
            "conditions": [{"type": "Suspended", "status": "True", "reason": "Suspended", "message": ""}],
            "jobsStatus": [{"name": "node", "active": 0, "failed": 0, "ready": 0, "succeeded": 0, "suspended": 1}],
        }
        self.deletion_reads = 0  # number of reads that still find a deleted job
        self.made: list[tuple[str, str]] = []  # (name, uid) of every TrainJob
        self.deleted: list[str] = []
        self.deletions: list[tuple[str, str, str]] = []  # (X-Launcher header of the client, owner, state) of each
        self.ends: dict[str, str] = {}  # last state that was returned, by uid
        self.requests: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def kubeconfig(self, path: Path) -> Path:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def jobs(self) -> dict[str, dict]:
        """Returns the TrainJobs that are not being deleted, by name."""
        with self.lock:
            found = [one for path, one in self.objects.items() if "/trainjobs/" in path and "deletionTimestamp" not in one["metadata"]]
            return {one["metadata"]["name"]: one for one in found}

    def put(self, path: str, body: dict) -> dict:
        with self.lock:
            self.version += 1
            meta = body.setdefault("metadata", {})
            meta.setdefault("uid", f"uid-{self.version}")
            meta["resourceVersion"] = str(self.version)
            self.objects[path] = body
            return body

    def answer(self, method: str, path: str, query: dict, body: dict | None, asker: str = "") -> tuple[int, Any]:
        with self.lock:
            self.requests.append((method, path))
            if path.endswith("/log"):
                return self._log(path.removesuffix("/log"))
            if method == "POST":
                return self._create(f"{path}/{body['metadata']['name']}", body, query.get("fieldValidation") == ["Strict"])
            if path == "/openapi/v3/apis/trainer.kubeflow.org/v1alpha1":
                return 200, openapi_of("activeDeadlineSeconds", "runtimePatches") if self.openapi is None else self.openapi
            if path.rsplit("/", 1)[1] in ("trainjobs", "pods", "nodes", "resourcequotas", "events", "workflows", "workloads"):
                return self._list(path, query.get("labelSelector", [""])[0])
            there = self.objects.get(path)
            if there is None:
                return 404, status("NotFound", f"{path} not found")
            if method == "PATCH":
                return self._patch(path, there, body)
            if method == "DELETE":
                return self._delete(path, there, body or {}, asker)
            return 200, self._read(path, there) if "/trainjobs/" in path else there

    def _create(self, path: str, body: dict, strictly: bool) -> tuple[int, Any]:
        if path in self.objects:
            return 409, status("AlreadyExists", f"{path} already exists")
        if strictly and "/trainjobs/" in path and CRDS.is_dir():
            try:
                check_custom(body)
            except AssertionError as error:
                return 400, status("BadRequest", f"strict decoding error: {error}")
        made = self.put(path, body)
        if "/trainjobs/" in path:
            made["_reads"] = 0
            self.made.append((made["metadata"]["name"], made["metadata"]["uid"]))
            self.on_create(made)
        return 201, made

    def _read(self, path: str, job: dict) -> dict:
        if "deletionTimestamp" in job["metadata"]:
            job["_left"] -= 1
            if job["_left"] < 0:
                del self.objects[path]
            return job
        if job["spec"].get("suspend"):
            return {key: value for key, value in job.items() if not key.startswith("_")} | {"status": self.suspended}
        script = self.script(job)
        state = script.states[min(job["_reads"], len(script.states) - 1)]
        job["_reads"] += 1
        self.ends[job["metadata"]["uid"]] = state
        shown = {key: value for key, value in job.items() if not key.startswith("_")}
        if state in ("Complete", "Failed"):
            shown["status"] = {"conditions": [{"type": state, "status": "True", "reason": state, "message": "", **script.condition}]}
        job["_state"] = state
        return shown

    def _patch(self, path: str, there: dict, body: dict) -> tuple[int, Any]:
        meta = body["metadata"]
        if meta.get("resourceVersion", there["metadata"]["resourceVersion"]) != there["metadata"]["resourceVersion"]:
            return 409, status("Conflict", "the object has been modified")
        there["metadata"].setdefault("annotations", {}).update(meta.get("annotations", {}))
        return 200, self.put(path, there)

    def _delete(self, path: str, there: dict, body: dict, asker: str) -> tuple[int, Any]:
        for key, wanted in (body.get("preconditions") or {}).items():
            if there["metadata"][key] != wanted:
                return 409, status("Conflict", f"precondition {key} failed")
        if "deletionTimestamp" not in there["metadata"]:
            self.deleted.append(there["metadata"]["name"])
            self.deletions.append((asker, there["metadata"].get("annotations", {}).get("moworld.io/launcher", ""), there.get("_state", "")))
            there["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            there["_left"] = self.deletion_reads
            self.put(path, there)
        if there["_left"] <= 0:
            del self.objects[path]
        return 200, status("Success", "")

    def _list(self, path: str, selector: str) -> tuple[int, Any]:
        if path.endswith("/pods") and "jobset-name=" in selector:
            return 200, {"kind": "PodList", "apiVersion": "v1", "items": self._pods(selector.split("=")[1])}
        wanted = dict(one.split("=") for one in selector.split(",") if one)
        found = [one for where, one in self.objects.items() if where.rsplit("/", 1)[0] == path]
        found = [one for one in found if wanted.items() <= one["metadata"].get("labels", {}).items()]
        return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": found}

    def _pods(self, name: str) -> list[dict]:
        job = self.jobs().get(name)
        if job is None or not job.get("_state"):
            return []
        script, phase = self.script(job), {"Complete": "Succeeded", "Failed": "Failed"}.get(job["_state"], job["_state"])
        if job["_state"] in ("Complete", "Failed") and not script.pods_after:
            return []

        def pod(rank: int, end: str, minute: int, status: dict) -> dict:
            labels = {"jobset.sigs.k8s.io/jobset-name": name, "batch.kubernetes.io/job-completion-index": str(rank)}
            meta = {"name": f"{name}-node-0-{rank}-{end}", "uid": f"{job['metadata']['uid']}-{rank}-{end}", "labels": labels}
            return {"metadata": {**meta, "creationTimestamp": f"2026-01-01T00:{minute:02d}:00Z"}, "status": status}

        earlier = [pod(0, script.earlier[0], 0, {"phase": "Failed"})] if script.earlier else []
        return [pod(0, "x", 1, {"phase": phase, **script.pod}), pod(1, "x", 1, {"phase": phase}), *earlier]

    def _log(self, path: str) -> tuple[int, Any]:
        pod = path.rsplit("/", 1)[1]
        job = self.jobs().get(pod.rsplit("-node-0-", 1)[0])
        if job and self.script(job).earlier and pod.endswith(f"-0-{self.script(job).earlier[0]}"):
            return 200, f"{stamp(0)} {self.script(job).earlier[1]}\n".encode()
        if job is None or not pod.endswith("-0-x"):
            return 404, status("NotFound", "no such pod")
        lines = self.script(job).lines
        shown = lines if job.get("_state") in ("Complete", "Failed") else lines[: max(0, job["_reads"] - 1)]
        return 200, "".join(f"{stamp(index)} {line}\n" for index, line in enumerate(shown)).encode()


def openapi_of(*fields: str) -> dict:
    """Returns an OpenAPI document of Trainer's group whose TrainJob has these fields in its spec."""
    kind = {"group": "trainer.kubeflow.org", "version": "v1alpha1", "kind": "TrainJob"}
    spec = {"properties": {field: {} for field in ("runtimeRef", *fields)}}
    return {"components": {"schemas": {"TrainJob": {"properties": {"spec": spec}, "x-kubernetes-group-version-kind": [kind]}}}}


def stamp(index: int) -> str:
    """Returns an RFC 3339 timestamp without trailing zeros of the fraction, as Kubernetes writes it: 0.9 s is after 0.85 s."""
    return f"2026-01-01T00:00:{index // 20:02d}.{(index % 20) * 5:02d}".rstrip("0").rstrip(".") + "Z"


def status(reason: str, message: str) -> dict:
    return {"kind": "Status", "apiVersion": "v1", "reason": reason, "message": message}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Cluster

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        if self.command == "PATCH" and self.headers["Content-Type"] != "application/merge-patch+json":  # the only type for custom resources
            self.reply(415, status("UnsupportedMediaType", self.headers["Content-Type"]))
            return
        fault = self.server.fault(self.command, parts.path)
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
            return
        if fault in ("429", "503"):
            self.reply(int(fault), status("Busy", "try again"))
            return
        code, answer = self.server.answer(self.command, parts.path, parse_qs(parts.query), body, self.headers.get("X-Launcher", ""))
        if fault == "lost":  # processed, but the response never arrives
            self.close_connection = True
            self.connection.close()
        elif fault == "500":  # processed, but reported as failed
            self.reply(500, status("InternalError", "etcd is unavailable"))
        else:
            self.reply(code, answer)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any

    def reply(self, code: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def random_faults(seed: int, share: float) -> Callable[[str, str], str]:
    """Returns faults for a share of requests: dropped connections, lost responses, overload, errors before and after processing."""
    chance, lock = random.Random(seed), threading.Lock()

    def fault(method: str, path: str) -> str:
        with lock:
            return chance.choice(["drop", "lost", "429", "503", "500"]) if chance.random() < share else ""

    return fault


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.01)
