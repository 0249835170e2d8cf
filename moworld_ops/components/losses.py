"""Summaries of loss curves, for the records of training steps."""


def tail_mean(curve: list[list[float]], tail: float = 0.2) -> float:
    """Returns the mean of the last `tail` of a loss curve."""
    values = [value for _, value in curve[-max(1, int(len(curve) * tail)) :]]
    return round(sum(values) / len(values), 5)
