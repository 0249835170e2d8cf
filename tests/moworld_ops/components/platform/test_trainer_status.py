"""Progress reports of a training to a server with Trainer's path, certificate and token, on loopback; Trainer itself is not run."""

import json
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from moworld.training.trainer import Run
from moworld_ops.components.platform import trainer_status
from moworld_ops.components.platform.trainer_status import StatusReporter, remaining, status, status_reporter
from tests.cluster import CRDS, running

PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/moworld/trainjobs/m-1/status"


class Server(ThreadingHTTPServer):
    def __init__(self, certificate) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.reports: list[dict] = []
        self.delay, self.code = 0.0, 200


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.delay)
        assert (self.path, self.headers["Authorization"]) == (PATH, "Bearer secret")
        self.server.reports.append(body["trainerStatus"])
        self.send_response(self.server.code)
        self.end_headers()

    def log_message(self, *args) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a certificate of 127.0.0.1 and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trainer")])
    now, address = datetime.now(UTC), x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1)).add_extension(address, False).sign(key, hashes.SHA256())
    path = tmp_path_factory.mktemp("tls") / "ca.crt"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def server(certificate, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("secret\n")
    with running(Server(certificate)) as one:
        monkeypatch.setenv(trainer_status.URL, f"https://127.0.0.1:{one.server_port}{PATH}")
        monkeypatch.setenv(trainer_status.CA, str(certificate))
        monkeypatch.setenv(trainer_status.TOKEN, str(tmp_path / "token"))
        yield one


def test_a_training_reports_progress_losses_and_the_time_that_is_left(server):
    curves: dict = {}
    run = Run(lambda start: iter(()), seed=0, report=status_reporter())
    for step in run.progress("stage", 0, 4, curves):
        curves.setdefault("high", []).append([step, 0.5 - step / 10])
    last = server.reports[-1]
    assert (last["progressPercentage"], last["estimatedRemainingSeconds"]) == (100, 0)
    assert last["metrics"] == [{"name": "high", "value": "0.2"}, {"name": "step", "value": "4/4"}]
    assert 1 <= len(server.reports) <= 2  # the first and the last: the others came within ten seconds


def test_a_slow_server_delays_no_step_and_one_that_refuses_ends_no_training(server, caplog):
    server.delay, server.code = 0.5, 403
    report = StatusReporter(*(trainer_status.os.environ[name] for name in (trainer_status.URL, trainer_status.CA, trainer_status.TOKEN)), seconds=0)
    started = time.monotonic()
    for step in range(1, 50):
        report(step, 100, {})
    assert time.monotonic() - started < 0.4
    report(100, 100, {})
    assert len(server.reports) <= 3 and [one.getMessage() for one in caplog.records if "403" in one.getMessage()]
    assert len(caplog.records) == 1  # not once a report


def test_nothing_is_reported_where_trainer_does_not_take_reports(server, monkeypatch):
    assert status_reporter() is not None
    monkeypatch.delenv(trainer_status.TOKEN)
    assert status_reporter() is None
    assert threading.active_count() < 20


def test_the_time_that_is_left_is_that_of_this_process_not_of_the_steps_before_it():
    assert remaining(done=60, steps=100, seconds=20.0, measured=10) == 80
    assert remaining(done=50, steps=100, seconds=0.0, measured=0) is None


@pytest.mark.skipif(not CRDS.is_dir(), reason="the published schemas of custom resources are not beside this checkout")
def test_a_report_is_within_the_published_schema():
    import yaml
    from jsonschema import Draft202012Validator

    found = next(yaml.safe_load(path.read_text()) for path in sorted(CRDS.rglob("*.yaml")) if "trainjobs" in path.name)
    schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["trainerStatus"]
    sent = status(1, 3, {f"{number} " + "x" * 80: 1e-30 / 3 for number in range(300)}, 7)["trainerStatus"]
    Draft202012Validator(schema).validate(sent)
    assert sent["progressPercentage"] == 33 and len(sent["metrics"]) == 256
