"""`moworld bench backends`: a session on a CPU by OpenVINO, by INT8 in PyTorch and by float32, alone and beside a busy process.

Each backend runs in a process of its own, because threads and their waiting are part of what is measured. The processes take turns.
"""

import json
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moworld_ops.benchmarks.measure import Row, row

MODES = ("one after another", "streamed")
BACKENDS = ("openvino", "torch INT8", "torch float32", "torch INT8, PyTorch's threads")
BUSY = "while True: pass"
WORKER = "import sys; from moworld_ops.benchmarks.backends import serve; serve(*sys.argv[1:])"


def bench_backends(folder: Path, cache: Path, turns: int = 5, chunks: int = 4) -> list[Row]:
    """Returns rows of frames a second, decoding included, of the INT8 model in `folder`; a ratio compares the same turns.

    cache: directory for OpenVINO; chunks: of each measurement. `torch float32` is the model with INT8 weights dequantized
    """
    workers = {name: _Worker(folder, cache, name) for name in BACKENDS}
    rates: dict[tuple[str, str, bool], list[float]] = {}
    try:
        for busy in (False, True):
            for turn in range(turns):
                for name in BACKENDS if turn % 2 else BACKENDS[::-1]:
                    for mode in MODES:
                        with _busy_process(busy):
                            rates.setdefault((name, mode, busy), []).append(workers[name].frames_per_second(mode, chunks))
    finally:
        for worker in workers.values():
            worker.close()
    rows = []
    for busy in (False, True):
        for mode in MODES:
            for peer in BACKENDS[1:]:
                case = f"{mode}{', beside a busy process' if busy else ''}"
                rows.append(_row(f"openvino, {case}", rates["openvino", mode, busy], rates[peer, mode, busy], peer))
    for name in BACKENDS:
        rows.append(_row(f"{name}, streamed", rates[name, MODES[1], False], rates[name, MODES[0], False], MODES[0]))
        rows += [_row(f"{name}, {mode}, beside a busy process", rates[name, mode, True], rates[name, mode, False], "alone") for mode in MODES]
    return rows


def _row(case: str, ours: list[float], peer: list[float], peer_name: str) -> Row:
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, peer, strict=True))
    return row(case, statistics.median(ours), "1/s", statistics.median(peer), peer_name, ratio)


@contextmanager
def _busy_process(wanted: bool) -> Any:
    process = subprocess.Popen([sys.executable, "-c", BUSY]) if wanted else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


class _Worker:
    """A process that serves one backend and sleeps between measurements."""

    def __init__(self, folder: Path, cache: Path, backend: str) -> None:
        command = [sys.executable, "-c", WORKER, str(folder), str(cache), backend]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def frames_per_second(self, mode: str, chunks: int) -> float:
        assert self.process.stdin is not None
        print(json.dumps([mode, chunks]), file=self.process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"a worker of the benchmark ended with status {self.process.wait()}; see its error above")
        return line


def serve(folder: str, cache: str, backend: str) -> None:
    """Runs a worker: reads [mode, chunks] from stdin, line by line, and prints the frames a second."""
    import time

    import torch

    from moworld.inference.loading import serving_world
    from moworld.inference.pictures import model_pictures
    from moworld.inference.session import WorldSession, stream

    threads = torch.get_num_threads()
    with serving_world(folder, backend="openvino" if backend == "openvino" else "torch", cache=Path(cache)) as world:
        assert world is not None
        if backend == "torch float32":
            dequantize(world.experts)
        if backend.endswith("PyTorch's threads"):
            torch.set_num_threads(threads)
        session = WorldSession(world)
        session.open(model_pictures(folder)[0], seed=0)
        session.step("w")
        print("ready", flush=True)
        for line in sys.stdin:
            mode, chunks = json.loads(line)
            started = time.perf_counter()
            for _ in stream(session, ["w"] * chunks) if mode == "streamed" else map(session.step, ["w"] * chunks):
                pass
            print(chunks * session.chunk_frames / (time.perf_counter() - started), flush=True)


def dequantize(experts: Any) -> None:
    """Replaces INT8 linears by float32 ones of the same values, in place."""
    from moworld.inference.chunk_function import dense
    from moworld.model.int8 import Int8Linear

    for _, expert in experts.named_experts():
        for name, layer in list(expert.named_modules()):
            if isinstance(layer, Int8Linear):
                expert.set_submodule(name, dense(layer))
