"""What a model is worth (paper 6): scores, camera accuracy, speed, gates and the report. Torch is met in the protocol alone."""

from moworld.evaluation.gates import Gate, failures, verdict
from moworld.evaluation.vbench import vbench_aggregate

__all__ = ["Gate", "failures", "vbench_aggregate", "verdict"]
