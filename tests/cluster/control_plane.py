"""A real Kubernetes API server and etcd on loopback, for tests: RBAC, pod security, quotas, service accounts' own tokens.

`build.py` says where the programs come from. Controllers, a scheduler and fake nodes are in `controllers.py`. Nothing here runs a container.
"""

import base64
import datetime
import ipaddress
import json
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.cluster.build import kubectl

ADMIN = "admin-of-a-test"  # its token; it is in group system:masters
DEADLINE = 120.0  # seconds that a program has to answer, on a machine that is busy
ADMISSION = """
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: PodSecurity
    configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, done: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Returns the first true result of `done`, asked every 0.2 s; raises AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := done():
            return result
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


class ControlPlane:
    """Runs etcd and an API server in `folder`. Attributes: url, kubeconfig (of an administrator), assets, certificate, key."""

    def __init__(self, assets: Path, folder: Path) -> None:
        self.assets, self.folder = assets, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.certificate, self.key, self.accounts_key = _certificates(folder)
        self.kubeconfig = self.write_kubeconfig("admin", ADMIN)
        self._stack = ExitStack()
        self._processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "ControlPlane":
        try:
            self._start_servers()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kubectl(self, *arguments: str, objects: Sequence[dict] = (), kubeconfig: Path | None = None, check: bool = True) -> str:
        """Returns kubectl's output, stderr included; `objects` are given to it as a file on standard input (-f -).

        Raises AssertionError with the output if kubectl fails and `check` is set.
        """
        done = self.kubectl_result(*arguments, objects=objects, kubeconfig=kubeconfig)
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {output}"
        return output

    def kubectl_result(
        self, *arguments: str, objects: Sequence[dict] = (), kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Returns the finished process of kubectl, whatever its exit status."""
        command = [str(kubectl(self.assets)), "--kubeconfig", str(kubeconfig or self.kubeconfig), *arguments]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}) if objects else None
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    def get(self, *arguments: str) -> dict:
        """Returns what `kubectl get` says of these arguments, as JSON."""
        done = self.kubectl_result("get", *arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def namespace(self, name: str) -> str:
        """Makes a namespace and waits until its default service account exists, where a controller makes one."""
        self.kubectl("create", "namespace", name)
        if "kube-controller-manager" in self._processes:
            wait_until(
                f"service account of {name}",
                lambda: self.kubectl("-n", name, "get", "sa", "default", "-o", "name", check=False).startswith("service"),
            )
        return name

    def account(self, namespace: str, name: str) -> Path:
        """Returns a kubeconfig with a token of an existing service account, as the server itself signs it."""
        token = self.kubectl("-n", namespace, "create", "token", name, "--duration=24h").strip()
        return self.write_kubeconfig(f"{namespace}-{name}", token, namespace)

    def write_kubeconfig(self, name: str, token: str, namespace: str = "default") -> Path:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.certificate)}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": "test", "user": name, "namespace": namespace}}],
        }
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def start(self, name: str, *arguments: str, ready: Callable[[], Any], environment: dict[str, str] | None = None) -> None:
        """Starts a program of the assets and returns when `ready`; raises AssertionError with the end of its log if it ends."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen([str(self.assets / name), *arguments], stdout=stream, stderr=stream, env=environment)
        self._processes[name] = process
        self._stack.callback(_stop, process)

        def answered() -> Any:
            assert process.poll() is None, f"{name} ended with {process.returncode}: {log.read_text(errors='replace')[-3000:]}"
            return ready()

        wait_until(name, answered)

    def ca_bundle(self) -> str:
        return base64.b64encode(self.certificate.read_bytes()).decode()

    def _start_servers(self) -> None:
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.start(
            "etcd", f"--data-dir={self.folder / 'etcd'}", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync", "--log-level=warn",
            ready=lambda: answers(f"{client}/health"),
        )  # fmt: skip
        tokens, admission = self.folder / "tokens.csv", self.folder / "admission.yaml"
        tokens.write_text(f'{ADMIN},admin,admin,"system:masters"\n')
        admission.write_text(ADMISSION)
        self.start(
            "kube-apiserver", f"--etcd-servers={client}", "--bind-address=127.0.0.1", f"--secure-port={self.port}",
            f"--tls-cert-file={self.certificate}", f"--tls-private-key-file={self.key}", f"--cert-dir={self.folder}",
            f"--token-auth-file={tokens}", "--authorization-mode=RBAC", "--anonymous-auth=true", f"--admission-control-config-file={admission}",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={self.accounts_key}",
            f"--service-account-signing-key-file={self.accounts_key}", "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true", "--endpoint-reconciler-type=none", "--profiling=false",
            ready=lambda: answers(f"{self.url}/readyz", self.certificate),
        )  # fmt: skip


def answers(url: str, certificate: Path | None = None) -> bool:
    """Returns whether an address of loopback answers with status 200."""
    try:
        context = ssl.create_default_context(cafile=str(certificate)) if certificate else None
        with urllib.request.urlopen(url, timeout=5, context=context) as reply:
            return reply.status == 200
    except OSError:
        return False


def accepts(port: int) -> bool:
    """Returns whether a port of loopback accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Returns a self-signed certificate of 127.0.0.1, its key, and the key that signs the service accounts' tokens.

    Kueue keeps a certificate only if it is valid for 90 days more, and has the name of Kueue's authority and service.
    """
    paths = folder / "server.crt", folder / "server.key", folder / "accounts.key"
    keys = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes-of-a-test")]), datetime.datetime.now(datetime.UTC)
    names = [*map(x509.DNSName, ("localhost", "kueue-ca", "kueue-webhook-service.kueue-system.svc")), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(keys[0].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(keys[0], hashes.SHA256())
    )
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    for path, key in zip(paths[1:], keys, strict=True):
        form = serialization.PrivateFormat.TraditionalOpenSSL
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return paths
