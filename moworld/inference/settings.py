"""Settings of the quantization. Imports no torch."""

from moworld.settings import PositiveFloat, Settings


class QuantizeSettings(Settings):
    """`max_layer_error`: the relative error of a layer's output above which the conversion is refused."""

    max_layer_error: PositiveFloat = 0.1
