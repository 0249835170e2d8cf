"""OpenLineage events: parsed by the classes that OpenLineage generates from its schema, and received by a server on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from moworld_ops.pipelines.openlineage import cluster_events, end_events, send, start_event
from moworld_ops.pipelines.runs import Run


@pytest.fixture(scope="module")
def published():
    """The generated classes; unknown and missing fields, bad UUIDs, times and URIs are errors."""
    from openlineage.client.generated import base, dataset_version_dataset, error_message_run, parent_run

    facets = {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet,
        "errorMessage": error_message_run.ErrorMessageRunFacet,
        "parent": lambda run, job, **rest: parent_run.ParentRunFacet(parent_run.Run(**run), parent_run.Job(**job), **rest),
    }
    schemas = {**facets, "parent": parent_run.ParentRunFacet}

    def facet(name, value):
        given = dict(value)
        producer, schema = given.pop("_producer"), given.pop("_schemaURL")
        assert schema == schemas[name]._get_schema()
        return facets[name](producer=producer, **given)

    def dataset(kind, value):
        given = dict(value)
        return kind(**{**given, "facets": {name: facet(name, one) for name, one in given["facets"].items()}})

    def parse(event):
        given = dict(event)
        assert given.pop("schemaURL") == base.RunEvent._get_schema()
        run = base.Run(given["run"]["runId"], {name: facet(name, one) for name, one in given["run"]["facets"].items()})
        inputs = [dataset(base.InputDataset, one) for one in given["inputs"]]
        outputs = [dataset(base.OutputDataset, one) for one in given["outputs"]]
        kind = base.EventType(given["eventType"])
        return base.RunEvent(**{**given, "run": run, "job": base.Job(**given["job"]), "inputs": inputs, "outputs": outputs, "eventType": kind})

    return parse


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("MOWORLD_HOME", str(tmp_path))
    folder = tmp_path / "runs" / "one"
    (folder / "steps").mkdir(parents=True)
    steps = {
        "annotate": {"status": "done", "attempt": 1, "started": 10.0, "seconds": 1.0, "outputs": {"captioned": {"path": "/a/captioned", "sha256": "ab"}}},
        "cache_features": {"status": "done", "attempt": 2, "started": 20.0, "seconds": 5.5, "summary": {"revision": "c0ffee"},
                           "outputs": {"features": {"path": "/a/features", "sha256": "cd"}}},
        "distill": {"status": "failed", "attempt": 2, "started": 30.0, "seconds": 1.0, "error": "out of memory"},
    }  # fmt: skip
    for name, step in steps.items():
        (folder / "steps" / f"{name}.json").write_text(json.dumps(step))
    plan = {"annotate": [], "cache_features": ["annotate"], "distill": ["cache_features"], "quantize": ["distill"]}
    record = {
        "run": "one", "engine": "local", "pipeline": "lifecycle", "profile": "pocket", "status": "failed", "started": 9.0, "error": "distill: out of memory",
        "attempts": [{"started": 9.0, "seconds": 3.0, "status": "killed"}, {"started": 19.0, "seconds": 12.0, "status": "failed"}],
        "steps": {name: {"index": index, "needs": needs, "status": "waiting"} for index, (name, needs) in enumerate(plan.items())},
        "settings": {"registry": {"data": "/srv/registry"}},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    return Run(folder)


def test_events_are_those_of_the_published_schema(run, published):
    start, events = start_event(run), end_events(run)
    parsed = [published(event) for event in (start, *events)]
    kinds = [(event.job.name, event.eventType.value) for event in parsed]
    whole, features, distill = "lifecycle-pocket", "lifecycle-pocket.cache_features", "lifecycle-pocket.distill"
    assert kinds == [(whole, "START"), (features, "START"), (features, "COMPLETE"), (distill, "START"), (distill, "FAIL"), (whole, "FAIL")]
    assert parsed[0].run.runId == parsed[-1].run.runId == parsed[1].run.facets["parent"].run.runId != parsed[1].run.runId
    assert parsed[4].run.facets["errorMessage"].message == "out of memory"
    assert parsed[2].eventTime == "1970-01-01T00:00:25.500000+00:00"


def test_features_have_their_dvc_revision_and_what_a_step_reads_is_what_another_wrote(run, published):
    events = [published(event) for event in end_events(run)]
    written, read, whole = events[1].outputs, events[3].inputs, events[-1].outputs
    for (one,) in (written, read, whole):
        assert (one.namespace, one.name, one.facets["version"].datasetVersion) == ("dvc", "/srv/registry/features", "c0ffee")
    (captioned,) = events[1].inputs
    assert captioned.namespace.startswith("file://") and captioned.facets["version"].datasetVersion == "ab"


def test_a_run_on_the_cluster_has_the_uris_of_what_its_steps_wrote(published):
    steps = {
        "collect": {"index": 0, "status": "done", "started": 10.0, "seconds": 5.0},
        "distill": {"index": 1, "status": "failed", "started": 15.0, "seconds": 2.0, "error": "exit code 137"},
        "promote": {"index": 2, "status": "waiting", "started": None, "seconds": 0.0},
    }
    record = {"pipeline": "lifecycle", "profile": "wan22-a14b", "status": "failed", "started": 9.0, "seconds": 9.0, "error": "distill: exit code 137",
              "kubeflow": {"id": "runs-1"}, "steps": steps}  # fmt: skip
    outputs = {"collect": {"clips": "minio://mlpipeline/v2/artifacts/collect/x/clips"}}
    events = [published(event) for event in cluster_events(record, outputs)]
    whole = "lifecycle-wan22-a14b"
    kinds = [(event.job.name.removeprefix(whole), event.eventType.value) for event in events]
    assert kinds == [("", "START"), (".collect", "START"), (".collect", "COMPLETE"), (".distill", "START"), (".distill", "FAIL"), ("", "FAIL")]
    for one in (events[2].outputs[0], events[-1].outputs[0]):
        assert (one.namespace, one.name) == ("minio://mlpipeline", "v2/artifacts/collect/x/clips")
    assert events[4].run.facets["errorMessage"].message == "exit code 137" and events[0].run.runId == events[-1].run.runId
    assert cluster_events(record, outputs) == cluster_events(json.loads(json.dumps(record)), outputs), "the same on every machine"


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append((self.path, self.headers.get("Authorization"), body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        return


@pytest.fixture
def receiver():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.received, server.status = [], 201
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_events_arrive_in_order_with_the_key(run, receiver, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{receiver.server_port}/")
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "key")
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "team")
    events = [start_event(run), *end_events(run)]
    assert send(events) == ""
    assert [body for _, _, body in receiver.received] == json.loads(json.dumps(events))
    assert {(path, key) for path, key, _ in receiver.received} == {("/api/v1/lineage", "Bearer key")}
    assert {body["job"]["namespace"] for _, _, body in receiver.received} == {"team"}


def test_a_run_does_not_depend_on_the_endpoint(run, receiver, monkeypatch):
    monkeypatch.delenv("OPENLINEAGE_URL", raising=False)
    assert send([start_event(run)]) == ""
    receiver.status = 500
    for url in (f"http://127.0.0.1:{receiver.server_port}", "http://127.0.0.1:1", "no address"):
        monkeypatch.setenv("OPENLINEAGE_URL", url)
        problem = send(end_events(run))
        assert url in problem and "incomplete" in problem and "\n" not in problem
    assert len(receiver.received) == 1  # nothing is sent after the first refusal
    for address, key in (("http://127.0.0.1:1/\udcff", "key"), ("http://127.0.0.1:1", "key of Zo\u00eb \u20ac"), ("http://127.0.0.1:1", "\udcff")):
        monkeypatch.setenv("OPENLINEAGE_URL", address)
        monkeypatch.setenv("OPENLINEAGE_API_KEY", key)
        assert "incomplete" in send(end_events(run))
    monkeypatch.delenv("OPENLINEAGE_API_KEY")
    assert "incomplete" in send([{"seconds": float("nan")}])
