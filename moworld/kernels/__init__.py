"""The model's hot operators (paper 5.4): a folder each, with a reference, implementations, and the function that callers use."""

OPERATORS = ("attention", "int8_linear", "modulated_norm", "qk_norm_rope")


class NoKernel(ValueError):
    """No implementation can serve a call, or the named one cannot. The message is one line with the reason."""
