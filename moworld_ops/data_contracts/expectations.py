"""Validates rows against a contract with Great Expectations: an implementation independent of `check`."""

from typing import Any

from moworld_ops.data_contracts.load import Contract
from moworld_ops.data_contracts.rules import Rule, compiled


def validate(rows: list[dict[str, Any]], contract: Contract) -> dict[str, Any]:
    """Runs the contract's suite over rows; returns {"success", "expectations": [{"column", "type", "success"}]}."""
    import great_expectations as gx
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    gxe = gx.expectations
    suite = gx.ExpectationSuite(name=contract.name)
    for rule in contract.rules:
        if (expected := _expectation(rule, gxe)) is not None:
            suite.add_expectation(expected)
    context.variables.progress_bars = {"globally": False}
    batch = context.data_sources.add_pandas("rows").add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    result = batch.get_batch({"dataframe": pd.DataFrame(rows)}).validate(suite)
    results = [
        {"column": r.expectation_config.kwargs.get("column", ""), "type": r.expectation_config.type, "success": bool(r.success)}
        for r in result.results
    ]
    return {"success": bool(result.success), "expectations": results}


def _expectation(rule: Rule, gxe: Any) -> Any:
    """Returns the expectation of a rule; None for a rule on the type, which the manifest's schema defines, and for one without equivalent.

    Great Expectations has no check of formats, multiples and files. A rule that only warns does not decide.
    """
    column = rule.column
    if rule.severity != "error":
        return None
    if rule.kind == "required":
        return gxe.ExpectColumnValuesToNotBeNull(column=column)
    if rule.kind == "unique" and len(rule.columns) > 1:
        return gxe.ExpectCompoundColumnsToBeUnique(column_list=list(rule.columns), ignore_row_if="any_value_is_missing")
    if rule.kind == "unique":
        return gxe.ExpectColumnValuesToBeUnique(column=column)
    if rule.kind == "range":
        strict = {"strict_min": rule.exclusive_minimum, "strict_max": rule.exclusive_maximum}
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=rule.minimum, max_value=rule.maximum, **strict)
    if rule.kind == "length":
        return gxe.ExpectColumnValueLengthsToBeBetween(column=column, min_value=rule.minimum, max_value=rule.maximum)
    if rule.kind == "values":
        return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(rule.values))
    if rule.kind == "missing":
        return gxe.ExpectColumnValuesToNotBeInSet(column=column, value_set=list(rule.values)) if rule.values else None
    if rule.kind == "pattern":
        return gxe.ExpectColumnValuesToMatchRegex(column=column, regex=compiled(rule.text).pattern)
    return None
