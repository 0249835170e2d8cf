"""Settings of the quantization. Imports no torch."""

from moworld.settings import Settings


class QuantizeSettings(Settings):
    """`max_layer_error`: the relative error of a layer's output above which the conversion is refused."""

    max_layer_error: float = 0.1
