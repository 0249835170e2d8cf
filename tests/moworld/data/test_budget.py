"""A budget that threads share: waiting, costs above the estimate, and attempts that were killed."""

import threading

import pytest

from moworld.data.budget import Budget, BudgetSpent
from moworld.errors import InputError


def spend(budget: Budget, most: int, cost: int | None) -> None:
    with budget.reserved(most) as reservation:
        reservation.cost = cost


def test_the_first_request_runs_alone_and_later_ones_reserve_in_proportion():
    budget, inside, free = Budget(1000), threading.Event(), threading.Event()
    ended = list[str]()

    def first() -> None:
        with budget.reserved(100) as reservation:
            inside.set()
            free.wait(10)
            reservation.cost = 250  # 2.5 times the estimate
            ended.append("first")

    def second() -> None:
        inside.wait(10)
        spend(budget, 100, 200)
        ended.append("second")

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    threads[1].join(0.2)
    assert ended == []
    free.set()
    for thread in threads:
        thread.join()
    assert ended == ["first", "second"] and budget.spent == 450
    spend(budget, 100, 250)
    spend(budget, 100, 60)
    with pytest.raises(BudgetSpent, match="760 of 1000 tokens are spent, and the next request may cost 250"):
        spend(budget, 100, 1)


def test_a_killed_attempt_has_spent_what_it_reserved(tmp_path):
    file = tmp_path / "spent.jsonl"
    spend(Budget(1000, file), 100, 40)
    spend(Budget(1000, file), 100, None)  # no answer
    lost = Budget(1000, file)
    assert lost.spent == 140
    with file.open("a") as stream:
        stream.write('{"request": "killed", "tokens": 300}\n{"request": "to')
    assert Budget(1000, file).spent == 440 and file.read_text().endswith("300}\n")
    file.write_text("[]\n")
    with pytest.raises(InputError, match="line 1"):
        Budget(1000, file)


def test_without_a_limit_nothing_is_counted(tmp_path):
    budget = Budget(None, tmp_path / "spent.jsonl")
    spend(budget, 10**9, 10**9)
    assert budget.spent == 0 and not (tmp_path / "spent.jsonl").exists()
