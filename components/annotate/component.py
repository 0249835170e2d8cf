"""The kfp face of `annotate`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def annotate(clips: dsl.Input[dsl.Dataset], captioned: dsl.Output[dsl.Dataset]) -> None:
    """Write a scene-level caption for every clip and prove that no camera motion stands in it.

    Args:
        clips: accepted clips
        captioned: clips with captions
    """
    from components.annotate.step import annotate as step
    from components.platform.steps import recorded

    with recorded(captioned) as record:
        record(step(clips=clips.path, out=captioned.path))
