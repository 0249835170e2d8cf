"""The kfp face of `collect`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def collect(clips: dsl.Output[dsl.Dataset], settings: str, seed: str) -> None:
    """Record game scenes and import videos: raw clips with their manifest.

    Args:
        clips: the raw clips: videos, cameras, depth, actions, manifest.parquet
        settings: section `data` of the profile, JSON
        seed: seed of the recorded episodes
    """
    from json import loads

    from components.collect.step import collect as step
    from components.platform.steps import recorded

    with recorded(clips) as record:
        record(step(out=clips.path, settings=loads(settings), seed=int(seed)))
