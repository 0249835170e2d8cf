"""The few hot operators, each with a reference, the implementations that run, and a face that checks and chooses."""

OPERATORS = ("attention", "int8_linear", "modulated_norm", "qk_norm_rope", "sdpa")


class NoKernel(ValueError):
    """No implementation serves a call, or the one that was asked for by name does not. One line, which says why."""
