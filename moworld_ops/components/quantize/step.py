"""Conversion of the few-step student to INT8: dynamic W8A8, DiT blocks only (paper 5.4)."""

from typing import Any


def quantize(model: str, out: str, settings: dict[str, Any], device: str = "") -> dict[str, Any]:
    """Writes the INT8 model with quantization.json, the error of every layer; returns counts, bytes and the largest error.

    device: see `pick_device`
    """
    from moworld.devices import pick_device
    from moworld.inference.quantization import QuantizeSettings, load_quantized

    world, report = load_quantized(model, QuantizeSettings(**settings), pick_device(device), "cpu")  # then it is only saved
    world.save(out, quantization=report)
    errors = [layer["error"] for layer in report["layers"]]
    return {key: report[key] for key in ("replaced", "bytes_before", "bytes_after")} | {"worst_layer_error": max(errors)}
