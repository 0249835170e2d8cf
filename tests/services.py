"""Real services for tests, started and stopped on loopback: OpenStack Swift with its S3 interface, PostgreSQL (Debian's packages), MLflow."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVERS = ("account", "container", "object")
KEYS = {"AWS_ACCESS_KEY_ID": "test:tester", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
PROXY = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 1
swift_dir = {folder}
user = {user}
log_level = WARNING
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck proxy-logging cache bulk s3api tempauth copy slo dlo versioned_writes proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
"""
PARTS = ("catch_errors", "gatekeeper", "healthcheck", "proxy-logging", "bulk", "copy", "slo", "dlo", "versioned_writes")
EGGS = {"proxy-logging": "proxy_logging"}
STORAGE = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 1
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
user = {user}
log_level = WARNING
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""


def has_swift() -> bool:
    return shutil.which("swift-proxy-server") is not None and Path("/etc/swift/swift.conf").is_file()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def swift(folder: Path) -> Iterator[str]:
    """Runs a store with one replica under `folder` and gives its endpoint. The keys are `KEYS`."""
    import getpass

    ports = {kind: free_port() for kind in (*SERVERS, "proxy")}
    (folder / "devices/sda").mkdir(parents=True)
    for kind in SERVERS:
        ring = str(folder / f"{kind}.builder")
        for command in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{ports[kind]}/sda", "1"], ["rebalance"]):
            subprocess.run(["swift-ring-builder", ring, *command], check=True, capture_output=True)
    filters = "".join(f"[filter:{part}]\nuse = egg:swift#{EGGS.get(part, part)}\n" for part in PARTS)
    texts = {"proxy": PROXY + filters} | dict.fromkeys(SERVERS, STORAGE)
    running = []
    try:
        for kind in (*SERVERS, "proxy"):
            config = folder / f"{kind}.conf"
            config.write_text(texts[kind].format(port=ports[kind], folder=folder, user=getpass.getuser(), kind=kind))
            log = (folder / f"{kind}.log").open("wb")
            running.append(subprocess.Popen([f"swift-{kind}-server", str(config), "-v"], stdout=log, stderr=log, start_new_session=True))
        _wait(f"http://127.0.0.1:{ports['proxy']}/healthcheck", running, folder)
        yield f"http://127.0.0.1:{ports['proxy']}"
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            process.wait(timeout=30)


POSTGRES = Path("/usr/lib/postgresql/15/bin")


def has_postgres() -> bool:
    return (POSTGRES / "initdb").is_file()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Runs PostgreSQL under `folder` and gives the URI of an empty database, for psycopg2."""
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses to run as root
    data, port = folder / "data", free_port()
    if user:
        for parent in [folder, *folder.parents]:  # the server's user must be able to enter
            if str(parent).startswith(tempfile.gettempdir() + os.sep):
                parent.chmod(parent.stat().st_mode | 0o011)
        data.mkdir()
        shutil.chown(data, "postgres", "postgres")
    subprocess.run(
        [*user, POSTGRES / "initdb", "-D", data, "-A", "trust", "-U", "moworld", "-E", "UTF8", "--no-sync"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", "fsync=off", "-c", f"unix_socket_directories={data}"]
    with (folder / "postgres.log").open("wb") as log:
        server = subprocess.Popen(
            [*user, POSTGRES / "postgres", "-D", data, *options], stdout=log, stderr=log, cwd="/", start_new_session=True
        )
    try:
        end = time.monotonic() + 60
        ready = [POSTGRES / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, capture_output=True, check=False).returncode:
            if time.monotonic() > end or server.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start: {(folder / 'postgres.log').read_text()[-800:]}")
            time.sleep(0.1)
        yield f"postgresql+psycopg2://moworld@127.0.0.1:{port}/postgres"
    finally:
        os.killpg(server.pid, signal.SIGINT)  # fast shutdown: closes its connections
        server.wait(timeout=30)


@contextmanager
def mlflow_server(folder: Path, store: str, artifacts: str, s3: str) -> Iterator[str]:
    """Runs MLflow on a database and an object store and gives its address. It proxies artifacts, so clients need no keys."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", artifacts, "--serve-artifacts"]
    environment = {**os.environ, **KEYS, "MLFLOW_S3_ENDPOINT_URL": s3, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # a dozen consumers of jobs that no test sends, each of which imports mlflow
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        _wait(f"http://127.0.0.1:{port}/health", [server], folder, seconds=180)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def _wait(url: str, running: list[subprocess.Popen[bytes]], folder: Path, seconds: float = 60.0) -> None:
    import requests

    end = time.monotonic() + seconds
    while time.monotonic() < end and all(process.poll() is None for process in running):
        try:
            if requests.get(url, timeout=2).status_code == 200:
                return
        except requests.RequestException:
            time.sleep(0.2)
    logs = {path.name: path.read_text()[-800:] for path in folder.glob("*.log")}
    raise RuntimeError(f"{url} did not start: {logs}")
