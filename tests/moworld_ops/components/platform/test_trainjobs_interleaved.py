"""Launchers of one step side by side, killed at any request, against an API server that fails and loses responses."""

import json
import random
import sys
import threading

import pytest

from moworld_ops.components.platform.reaper import reap
from moworld_ops.components.platform.trainjobs import Launcher, job_name, trainjob
from tests.cluster import Cluster, Script, random_faults, running
from tests.moworld_ops.components.platform.launchers import POOL, client_of, workflow


class Killed(BaseException):
    """Simulates SIGKILL: nothing runs after it."""


class Mortal:
    """Makes an ApiClient die at its n-th request or once `dead` is set, before it is sent or before its response is read."""

    def __init__(self, api, at: int, answered: bool, dead: threading.Event) -> None:
        send, self.count = api.call_api, 0

        def call(*args, **kwargs):
            self.count += 1
            if dead.is_set() or self.count > at or (self.count == at and not answered):
                raise Killed
            answer = send(*args, **kwargs)
            if self.count == at:
                raise Killed
            return answer

        api.call_api = call


class Attempt(threading.Thread):
    """One launcher pod, in a thread: killed at a chosen request, or left alone until `dead` is set."""

    def __init__(self, server: Cluster, job: dict, owner: str, chance: random.Random) -> None:
        super().__init__(daemon=True)
        from kubernetes import client

        settings = client.Configuration(host=server.url)
        settings.retries = False
        api = client.ApiClient(settings)
        api.set_default_header("X-Launcher", owner)
        self.fate = chance.choice(["left", "left", "killed", "killed", "killed"])
        at, answered = chance.randint(1, 14), chance.random() < 0.5
        self.dead = threading.Event()
        Mortal(api, at if self.fate == "killed" else sys.maxsize, answered, self.dead)
        self.said: list[str] = []
        self.launcher = Launcher(api, "moworld", owner, self.said.append, poll_seconds=0.002)
        self.job, self.outcome = json.loads(json.dumps(job)), ""

    def run(self) -> None:
        name = self.job["metadata"]["name"]
        try:
            with self.launcher.cleanup([name]):
                self.launcher.ensure(self.job, lambda: None)
                self.launcher.follow([name])
                self.outcome = "Complete"
        except Killed:
            self.outcome = "killed"
        except RuntimeError as error:
            self.outcome = str(error)


def interleaving(seed: int) -> dict[str, int]:
    """Runs attempts of one step, some concurrent, some killed, against a failing server; checks the invariants and counts the outcomes."""
    chance = random.Random(seed)
    with running(Cluster()) as server:
        server.fault = random_faults(seed, chance.choice([0.0, 0.1, 0.3]))
        server.deletion_reads = chance.randint(0, 3)
        lines = tuple(f"line {index}" for index in range(chance.randint(0, 30)))
        end = chance.choice(["Complete", "Complete", "Failed", "Running"])
        server.script = lambda job: Script(*[""] * (seed % 3), *["Running"] * (5 + seed % 7), end, lines=lines)
        job = trainjob("distill", job_name("run", "distill", 0), POOL, "/mnt/moworld/x/arguments.json", "run")
        attempts: list[Attempt] = []
        for number in range(4):
            attempt = Attempt(server, job, f"pod-{number}", chance)
            if end == "Running" and number == 3:
                attempt.dead.set()  # nothing else ends it
            attempts.append(attempt)
            attempt.start()
            if chance.random() < 0.7 or number == 3:  # else the next one starts while this one is still running, as after a lost node
                attempt.join(0.05 if end == "Running" and attempt.fate == "left" else 60)
            if attempt.outcome == "Complete":
                break
        for attempt in attempts:
            if end == "Running":
                attempt.dead.set()
            attempt.join(60)
            assert not attempt.is_alive(), f"seed {seed}: an attempt hangs"
        names = {name for name, _ in server.made}
        assert len(names) <= 1, f"seed {seed}: two jobs for one step: {names}"
        left = server.jobs()
        alive = {attempt.launcher.owner for attempt in attempts if attempt.outcome != "killed"}
        for one in left.values():  # only a killed launcher leaves a job, for the next one or the reaper
            assert one["metadata"]["annotations"]["moworld.io/launcher"] not in alive, f"seed {seed}: orphan of a launcher that ended"
        server.fault = lambda method, path: ""
        workflow(server, "run")
        assert reap(client_of(server), "moworld") == []
        workflow(server, "run", status={"phase": "Failed"})
        assert reap(client_of(server), "moworld") == sorted(left)
        assert server.jobs() == {}, f"seed {seed}: orphan"
        for asker, owner, state in server.deletions[: len(server.deletions) - len(left)]:  # all except the reaper's
            assert asker == owner or state == "Failed", f"seed {seed}: {asker} deleted the job of {owner}"
        for attempt in attempts:
            if attempt.outcome == "Complete":
                assert "Complete" in server.ends.values(), f"seed {seed}: success of a job that was never complete"
                mine = [line.partition("] ")[2] for line in attempt.said if line.startswith("[")]
                assert mine == [line for line in lines if line in mine], f"seed {seed}: lines twice or out of order"
            elif " failed: " in attempt.outcome:
                assert "Failed" in server.ends.values(), f"seed {seed}: failure of a job that never failed"
            else:
                assert attempt.outcome == "killed" or "taken over" in attempt.outcome or "was deleted by someone else" in attempt.outcome
        if end == "Complete" and any(a.fate == "left" for a in attempts) and len(attempts) == 1:
            assert attempts[0].outcome == "Complete"
        kinds = [("taken over" if "taken over" in a.outcome else "failed" if " failed" in a.outcome else a.outcome) for a in attempts]
        return {kind: kinds.count(kind) for kind in kinds} | {"left to the reaper": len(left), "jobs made": len(server.made)}


def test_twelve_interleavings_leave_no_orphan_and_a_true_status():
    assert all(interleaving(seed)["jobs made"] <= 4 for seed in range(12))


@pytest.mark.slow
def test_two_hundred_interleavings_leave_no_orphan_and_a_true_status():
    total: dict[str, int] = {}
    for seed in range(1000, 1200):
        for key, count in interleaving(seed).items():
            total[key] = total.get(key, 0) + count
    print(json.dumps(total))
    assert {"Complete", "failed", "killed", "left to the reaper"} <= set(total)  # each of them occurred
    assert total["left to the reaper"] > 0 and total.get("taken over", 0) > 0
