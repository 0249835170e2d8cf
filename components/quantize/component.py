"""The kfp face of `quantize`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def quantize(model: dsl.Input[dsl.Model], quantized: dsl.Output[dsl.Model], settings: str, pool: str = "") -> None:
    """Turn the linears of the DiT blocks to dynamic W8A8 and report the error (paper 5.4).

    Args:
        model: the few-step student
        quantized: the INT8 student with its error report
        settings: section `quantize` of the profile, JSON
        pool: where the step runs, JSON; empty for this process
    """
    from json import loads

    from components.platform.launch import run_step
    from components.platform.steps import recorded

    with recorded(quantized) as record:
        record(run_step("quantize", {"model": model.path, "out": quantized.path, "settings": loads(settings)}, pool))
