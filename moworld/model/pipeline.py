"""Experts in Diffusers' Wan pipelines. Only this module imports Diffusers to run an expert."""

import inspect
from dataclasses import asdict
from typing import Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_utils import ModelMixin as ModelMixin  # a saved pipeline loads the classes of modules that have this name

from moworld.model.transformer import MoWorldTransformer3DModel, TransformerConfig


class PipelineTransformer(MoWorldTransformer3DModel, ModelMixin, ConfigMixin, CacheMixin):
    """An expert with what Diffusers' pipelines need besides: a dtype, contexts of caches, `from_pretrained` and `save_pretrained`."""

    config: TransformerConfig = TransformerConfig()  # an attribute, not the property of ConfigMixin
    _no_split_modules = ("TransformerBlock",)
    _repeated_blocks = ("TransformerBlock",)

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        ConfigMixin.register_to_config(self, **asdict(self.config))

    __init__.__signature__ = inspect.signature(TransformerConfig.__init__)  # type: ignore[attr-defined]  # Diffusers passes what it names

    @classmethod
    def of(cls, expert: MoWorldTransformer3DModel) -> "PipelineTransformer":
        """Returns an expert as a pipeline's transformer. It shares the expert's parts: weights, and INT8 layers."""
        made = cls.__new__(cls)
        made.__dict__ = dict(expert.__dict__)
        ConfigMixin.register_to_config(made, **asdict(expert.config))
        return made
