"""The kfp face of `train_codec`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def train_codec(clips: dsl.Input[dsl.Dataset], codec: dsl.Output[dsl.Model], settings: str, data: str, seed: str) -> None:
    """Train the small causal video autoencoder of profile `pocket`.

    Args:
        clips: captioned clips
        codec: the codec's folder
        settings: section `codec` of the profile, JSON
        data: section `data` of the profile, JSON, for the frame size
        seed: seed of initialisation and sample order
    """
    from json import loads

    from components.platform.steps import recorded
    from components.train_codec.step import train_codec as step

    with recorded(codec) as record:
        size_hw = (loads(data)["height"], loads(data)["width"])
        record(step(clips=clips.path, out=codec.path, settings=loads(settings), size_hw=size_hw, seed=int(seed)))
