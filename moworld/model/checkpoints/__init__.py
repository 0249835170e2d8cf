"""Reads, writes and describes published checkpoints, tensor by tensor: Wan2.2's own layout, Diffusers', and the published MoWorld base."""

from moworld.model.checkpoints.convert import export_model, import_model
from moworld.model.checkpoints.reader import Checkpoint, find_experts
from moworld.model.checkpoints.tree import describe

__all__ = ["Checkpoint", "describe", "export_model", "find_experts", "import_model"]
