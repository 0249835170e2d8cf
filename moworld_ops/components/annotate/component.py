"""Writes captions of the scene.

Sources, in this order: a text that came with the video, the engine's list of visible objects, a vision model behind an
OpenAI-compatible endpoint (section `annotation`: vLLM or MindIE serving Qwen-VL), and otherwise light and colour of the pixels.
A caption that describes camera motion, by a listed phrase or by its meaning, is requested again; contract `captions` rejects the rest.

Resources: one process; at most `annotation.concurrency` requests at a time, and `annotation.budget_tokens` for all of a run. Busy
    servers are given the time that they ask for. Answers are kept in `annotations.jsonl` in the state folder. The endpoint's key is read from the environment variable that the section names.
Failure modes: a spent budget: one line, exit status 2; with a larger one the run resumes where it stopped. A refused key, an unknown model, an endpoint without any usable answer: one line, exit status 2. More captions
    rejected than the contract allows: exit status 1; the reasons stay in the run's folder.
Stability: beta
Last verified: 2026-11-28
"""

from kfp import dsl

from moworld_ops.components.platform.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def annotate(
    clips: dsl.Input[dsl.Dataset],
    captioned: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    settings: str,
    required_splits: str,
    partition: str = "",
) -> None:
    """Write a scene-level caption for every clip and check that it describes no camera motion.

    Args:
        clips: accepted clips
        captioned: clips with captions
        quarantine: clips whose caption the contract rejects
        settings: section `annotation` of the profile, JSON; null to use no vision model
        required_splits: splits that must have a clip, JSON
        partition: number of the partition, which is not judged as a batch; empty for all clips
    """
    from json import loads

    from moworld_ops.components.annotate.step import annotate as step
    from moworld_ops.components.platform.attempts import spending_file
    from moworld_ops.components.platform.context import partition_suffix
    from moworld_ops.components.platform.home import home
    from moworld_ops.components.platform.steps import recorded
    from moworld_ops.components.platform.store import input_path, output_path

    journal = str(home() / f"annotations{partition_suffix(partition)}.jsonl")
    with recorded(captioned, may_be_empty=(quarantine,), partition=partition) as record:
        paths = {"clips": input_path(clips), "out": output_path(captioned), "quarantine": quarantine.path, "journal": journal}
        options = {"settings": loads(settings), "required_splits": loads(required_splits), "spending": spending_file()}
        record(step(**paths, **options, judged=not partition))
