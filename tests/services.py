"""Real services that tests start on loopback and stop: OpenStack Swift with its S3 interface (Debian's packages)."""

import os
import shutil
import signal
import socket
import subprocess
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
    """A store of one replica under `folder`; gives its endpoint. Keys are `KEYS`."""
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
    raise RuntimeError(f"Swift did not come up: {logs}")
