"""Evaluation (paper 6): scores, camera accuracy, speed, gates and reports. Only the protocols import torch."""
