"""Transformer, camera adapter, experts, codec, text encoder, history and rollout (paper 3, 4.2, eq. 13)."""
