"""Byte ranges of safetensors files over HTTP from a server whose connections break."""

import http.server
import io
import json
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from moworld import tensors
from moworld.errors import InputError


class Faults(http.server.BaseHTTPRequestHandler):
    """Serves one file by range; each fault in the server's list spoils one answer."""

    server: Any
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._head(200, len(self.server.data))
        self.end_headers()

    def do_GET(self) -> None:
        first, last = (int(each) for each in self.headers["Range"].removeprefix("bytes=").split("-"))
        body = self.server.data[first : last + 1]
        fault = self.server.faults.pop(0) if self.server.faults and first >= self.server.reads_from else ""
        if fault == "busy":
            self._head(503, 0)
            return self.end_headers()
        if fault == "gone":
            self._head(404, 0)
            return self.end_headers()
        self._head(206, len(body))
        self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(self.server.data)}")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        self.close_connection = fault == "cut"

    def _head(self, status: int, size: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.send_header("Accept-Ranges", "bytes")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A shard over HTTP, its tensor and the server with its list of faults."""
    monkeypatch.setattr(tensors, "WAITS", (0.0, 0.0, 0.0))
    weight = torch.arange(600, dtype=torch.float32).reshape(30, 20)
    save_file({"weight": weight}, tmp_path / "a.safetensors")
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faults)
    server.data, server.faults, server.reads_from = (tmp_path / "a.safetensors").read_bytes(), [], 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    shard = tensors.Shard(f"http://127.0.0.1:{server.server_port}/a.safetensors")
    server.reads_from = shard.entries["weight"].start
    yield shard, weight, server
    server.shutdown()
    server.server_close()


def test_broken_connections_are_tried_again(served):
    shard, weight, server = served
    server.faults = ["cut", "busy", "cut"]
    (rows,) = shard.rows([("weight", 3, 9)])
    assert torch.equal(rows, weight[3:12]) and not server.faults


@pytest.mark.parametrize(("faults", "left"), [(["cut"] * 9, 5), (["gone"] * 2, 1)])
def test_what_stays_broken_is_one_error(served, faults, left):
    shard, _, server = served
    server.faults = list(faults)
    with pytest.raises(InputError, match=r"a\.safetensors: found .*, expected a readable file or folder"):
        shard.rows([("weight", 0, 2)])
    assert len(server.faults) == left


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ([None], [0, 4]), ("abc", [0, 4]), (["a"], [0, 4]), ([1.0], [0, 4]), ([True], [0, 4]), ([-1, -1], [0, 4]), ([10**400, 0], [0, 0]),
        ([1], [-100, -96]), ([1], [0.0, 4.0]), ([1], [10**400, 10**400 + 4]), (1, [0, 4]), ([1], [0, 4, 8]), ({"a": 1}, [0, 4]),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_header_with_other_sizes_or_places_than_counts_is_one_line(shape, offsets):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    with pytest.raises(InputError, match=r"^f: header: ") as caught:
        tensors.read_header(io.BytesIO(struct.pack("<Q", len(header)) + header + bytes(64)), "f")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
