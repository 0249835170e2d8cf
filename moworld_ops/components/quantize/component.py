"""Quantizes the linear layers of the DiT blocks to dynamic W8A8 (paper 5.4), and counts the replaced layers.

Resources: one core, below 2 GB
Failure modes: nothing to replace: the step fails
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def quantize(model: dsl.Input[dsl.Model], quantized: dsl.Output[dsl.Model], settings: str, pool: str = "") -> None:
    """Replace the linear layers of the DiT blocks by dynamic W8A8 and report their number and the error (paper 5.4).

    Args:
        model: the few-step student
        quantized: the INT8 student with its error report
        settings: section `quantize` of the profile, JSON
        pool: where the step runs, JSON; empty for this process
    """
    from json import loads

    from moworld_ops.components.platform.launch import run_step
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    with recorded(quantized) as record:
        record(run_step("quantize", {"model": input_path(model), "out": output_path(quantized), "settings": loads(settings)}, pool))
