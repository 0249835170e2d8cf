"""Hot operators of the model (paper 5.4) and of its applications (7): a folder each, with a reference, implementations, and the function that callers use."""

OPERATORS = ("attention", "gaussians", "int8_linear", "modulated_norm", "qk_norm_rope")


class NoKernel(ValueError):
    """No implementation can serve a call, or the named one cannot. The message is one line with the reason."""
