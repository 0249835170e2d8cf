"""The kfp face of `complete_geometry`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def complete_geometry(
    raw: dsl.Input[dsl.Dataset],
    clips: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    settings: str,
    seed: str,
) -> None:
    """Give every clip a verified camera: check known ones, recover missing ones, reject what is unreliable.

    Args:
        raw: raw clips
        clips: clips with cameras
        quarantine: rejected clips with rule, value and threshold
        settings: section `geometry` of the profile, JSON
        seed: seed of the feature matching
    """
    from json import loads

    from components.complete_geometry.step import complete_geometry as step
    from components.platform.steps import recorded

    with recorded(clips, may_be_empty=(quarantine,)) as record:
        record(step(clips=raw.path, out=clips.path, quarantine=quarantine.path, settings=loads(settings), seed=int(seed)))
