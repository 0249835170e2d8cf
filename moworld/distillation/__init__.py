"""Autoregressive distillation (paper 4): flow matching on ground-truth history, then self-forcing distribution matching."""
