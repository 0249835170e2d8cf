"""Convert the few-step student to INT8 (W8A8 dynamic, DiT blocks alone)."""

from typing import Any


def quantize(model: str, out: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Write the INT8 model with quantization.json, the error of every layer."""
    from moworld.inference.quantization import QuantizeSettings, quantize_experts
    from moworld.model.world import WorldModel

    world = WorldModel.load(model)
    report = quantize_experts(world, QuantizeSettings(**settings))
    world.save(out, quantization=report)
    errors = [layer["error"] for layer in report["layers"]]
    return {key: report[key] for key in ("replaced", "bytes_before", "bytes_after")} | {"worst_layer_error": max(errors)}
