"""A process for each piece of work: what crashes, hangs or eats memory is told, and ends nothing else."""

import os
import time

import pytest

from moworld.data.isolation import isolated
from moworld.errors import InputError


def work(what: str, alive) -> str:
    if what == "crash":
        os.abort()
    if what == "hang":
        time.sleep(60)
    if what == "slow":
        for _ in range(4):
            time.sleep(2)
            alive()
    if what == "eat":
        hoard = [bytearray(1 << 26) for _ in range(1000)]
        return str(len(hoard))
    if what == "raise":
        raise ValueError("two\nlines")
    return what


def test_each_ends_in_its_own_way_and_the_order_stays():
    kinds = ["fine", "crash", "hang", "slow", "eat", "raise", "fine"]
    started = time.monotonic()
    found = list(isolated(work, [(kind,) for kind in kinds], workers=3, stall=6, memory=2 << 30))
    assert [answer for answer in found if isinstance(answer, str)] == ["fine", "slow", "fine"]
    told = {kind: str(answer) for kind, answer in zip(kinds, found, strict=True) if isinstance(answer, InputError)}
    assert {kind: next(words for words in WORDS if words in line) for kind, line in told.items()} == dict(zip(BAD, WORDS, strict=True))
    assert all("\n" not in line for line in told.values())
    assert time.monotonic() - started < 50  # nobody waited for the one that hangs


BAD = ("crash", "hang", "eat", "raise")
WORDS = ("signal 6", "no progress in 6 s", "more than 2048 MiB", "ValueError: two lines")


@pytest.mark.parametrize("workers", [1, 4])
def test_nothing_to_do_is_nothing(workers):
    assert list(isolated(work, [], workers)) == []
