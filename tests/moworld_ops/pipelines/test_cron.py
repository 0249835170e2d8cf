"""Cron expressions are checked before a schedule is sent."""

import pytest

from moworld.errors import InputError
from moworld_ops.pipelines.cron import check_cron


@pytest.mark.parametrize("expression", ["0 0 3 * * *", "*/10 * * * * *", "0 0,30 8-18 ? * mon-fri", "0 0 0 1 JAN 0", "0 0/5 * * 1-12/3 *"])
def test_expressions_that_kfp_accepts(expression):
    check_cron(expression)


@pytest.mark.parametrize(
    ("expression", "field"),
    [
        ("0 3 * * *", "six fields"),
        ("60 0 3 * * *", "second: found 60"),
        ("0 0 25 * * *", "hour: found 25, expected \\*, or 0 to 23"),
        ("0 0 3 0 * *", "day of month: found 0"),
        ("0 0 3 * 13 *", "month: found 13"),
        ("0 0 3 * * 7", "day of week: found 7, expected .* sun to sat"),
        ("0 0 3 * * x", "day of week"),
        ("0 0 5-3 * * *", "hour"),
        ("0 */0 3 * * *", "minute"),
        ("0 1,,2 3 * * *", "minute"),
    ],
)
def test_a_wrong_field_is_named(expression, field):
    with pytest.raises(InputError, match=field):
        check_cron(expression)
