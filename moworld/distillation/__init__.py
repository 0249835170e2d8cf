"""Autoregressive distillation (paper 4): flow matching on ground-truth history, then self-forcing distribution matching."""

from moworld.model.history import select_history

__all__ = ["select_history"]
