"""Trains the small causal video autoencoder, which decodes in real time on a CPU.

Only for profile `pocket`; `wan22-a14b` imports Wan's VAE.

Resources: two cores, below 2 GB
Failure modes: no clip is long enough: one line, exit status 2
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def train_codec(
    clips: dsl.Input[dsl.Dataset], codec: dsl.Output[dsl.Model], settings: str, data: str, seed: str, base: str = "null"
) -> None:
    """Train the small causal video autoencoder of profile `pocket`.

    Args:
        clips: captioned clips
        codec: config.json, safetensors, losses.json
        settings: section `codec` of the profile, JSON
        data: section `data` of the profile, JSON, for the frame size
        seed: seed of initialisation and sample order
        base: weights that training starts from (moworld.model.settings.BaseSettings), JSON; the codec continues from the one in them, if any
    """
    from json import loads

    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path
    from moworld_ops.components.train_codec.step import train_codec as step

    with recorded(codec) as record:
        size_hw = (loads(data)["height"], loads(data)["width"])
        options = {"settings": loads(settings), "size_hw": size_hw, "seed": int(seed), "base": loads(base)}
        record(step(clips=input_path(clips), out=output_path(codec), **options))
