"""The kfp face of `annotate`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def annotate(
    clips: dsl.Input[dsl.Dataset],
    captioned: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    settings: str,
) -> None:
    """Write a scene-level caption for every clip and prove that no camera motion stands in it.

    Args:
        clips: accepted clips
        captioned: clips with captions
        quarantine: clips whose caption the contract rejects
        settings: section `annotation` of the profile, JSON; null where no vision model is asked
    """
    from json import loads

    from components.annotate.step import annotate as step
    from components.platform.home import home
    from components.platform.steps import recorded

    journal = str(home() / "annotations.jsonl")
    with recorded(captioned, may_be_empty=(quarantine,)) as record:
        record(step(clips=clips.path, out=captioned.path, quarantine=quarantine.path, settings=loads(settings), journal=journal))
