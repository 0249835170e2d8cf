"""Work in separate processes: crashes, hangs and exhausted memory are reported and affect nothing else."""

import os
import time
from pathlib import Path

import pytest

from moworld.data.isolation import run_isolated
from moworld.errors import InputError


def work(what: str, heartbeat) -> str:
    if what == "crash":
        os.abort()
    if what == "hang":
        time.sleep(60)
    if what == "slow":
        for _ in range(3):
            time.sleep(4)
            heartbeat()
    if what == "eat":
        return str(len(bytearray(4 << 30)))
    if what == "raise":
        raise ValueError("two\nlines")
    return what


def test_each_failure_is_reported_and_the_order_is_kept():
    kinds = ["fine", "crash", "hang", "slow", "eat", "raise", "fine"]
    results = list(run_isolated(work, [(kind,) for kind in kinds], workers=3, stall=10, memory=2 << 30))
    assert [answer for answer in results if isinstance(answer, str)] == ["fine", "slow", "fine"]
    errors = {kind: str(answer) for kind, answer in zip(kinds, results, strict=True) if isinstance(answer, InputError)}
    assert {kind: next(words for words in WORDS if words in line) for kind, line in errors.items()} == dict(zip(BAD, WORDS, strict=True))
    assert all("\n" not in line for line in errors.values())


def second_time(what: str, folder: str, heartbeat) -> str:
    seen = Path(folder, what)
    if what == "never" or not seen.exists():
        seen.touch()
        os.abort()
    return what


def test_a_process_that_ended_is_tried_again(tmp_path):
    once, never = run_isolated(second_time, [("once", str(tmp_path)), ("never", str(tmp_path))], attempts=2)
    assert once == "once" and "a decoder that ended with signal 6, 2 times" in str(never)


BAD = ("crash", "hang", "eat", "raise")
WORDS = ("signal 6", "no progress in 10 s", "more than 2048 MiB", "ValueError: two lines")


@pytest.mark.parametrize("workers", [1, 4])
def test_no_work_yields_nothing(workers):
    assert list(run_isolated(work, [], workers)) == []
