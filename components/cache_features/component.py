"""The kfp face of `cache_features`; what it does stands in step.py."""

from kfp import dsl

from components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def cache_features(
    clips: dsl.Input[dsl.Dataset],
    codec: dsl.Input[dsl.Model],
    features: dsl.Output[dsl.Dataset],
    data: str,
    text: str,
    seed: str,
    registry: str = "",
    remote: str = "",
    pool: str = "",
) -> None:
    """Encode clips to latents, captions to embeddings and cameras to tensors, in shards that DVC versions.

    Args:
        clips: captioned clips
        codec: the video autoencoder
        features: feature shards and their index
        data: section `data` of the profile, JSON
        text: section `text` of the profile, JSON
        seed: seed of crops
        registry: folder of the git and DVC registry; empty for the one in the state folder
        remote: where a new registry keeps its data, s3://...; empty for a folder beside it
        pool: where the step runs, JSON; empty for this process
    """
    from json import loads

    from components.cache_features.step import put_under_dvc
    from components.platform.home import home
    from components.platform.launch import run_step
    from components.platform.steps import recorded

    with recorded(features) as record:
        summary = run_step(
            "cache_features",
            {
                "clips": clips.path,
                "codec": codec.path,
                "out": features.path,
                "data_settings": loads(data),
                "text_settings": loads(text),
                "seed": int(seed),
                "cache": str(home() / "encoded"),
            },
            pool,
        )
        record(summary | put_under_dvc(features.path, registry or str(home() / "registry"), remote))
