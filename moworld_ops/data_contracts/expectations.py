"""Validates rows against a contract with Great Expectations: an implementation independent of `check`."""

from typing import Any

from moworld_ops.data_contracts.load import Contract


def validate(rows: list[dict[str, Any]], contract: Contract) -> dict[str, Any]:
    """Runs the contract's suite over rows; returns {"success", "expectations": [{"column", "type", "success"}]}."""
    import great_expectations as gx
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    gxe = gx.expectations
    suite = gx.ExpectationSuite(name=contract.name)
    for rule in (rule for rule in contract.rules if rule.kind != "type"):  # the manifest's schema defines the types
        if rule.kind == "required":
            suite.add_expectation(gxe.ExpectColumnValuesToNotBeNull(column=rule.column))
        elif rule.kind == "unique":
            suite.add_expectation(gxe.ExpectColumnValuesToBeUnique(column=rule.column))
        else:
            suite.add_expectation(gxe.ExpectColumnValuesToBeBetween(column=rule.column, min_value=rule.minimum, max_value=rule.maximum))
    context.variables.progress_bars = {"globally": False}
    batch = context.data_sources.add_pandas("rows").add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    result = batch.get_batch({"dataframe": pd.DataFrame(rows)}).validate(suite)
    results = [
        {"column": r.expectation_config.kwargs["column"], "type": r.expectation_config.type, "success": bool(r.success)}
        for r in result.results
    ]
    return {"success": bool(result.success), "expectations": results}
