"""Write a scene-level caption for every clip, and prove by contract `captions` that camera motion is kept out."""

from dataclasses import replace
from pathlib import Path
from typing import Any


def annotate(clips: str, out: str, quarantine: str, settings: dict[str, Any] | None, journal: str) -> dict[str, Any]:
    """Write the clips with captions, and those whose caption the contract rejects.

    settings: the vision endpoint (`moworld.data.annotation.VisionSettings`) for clips of which no engine knows the scene; None uses pixels alone
    journal:  where the endpoint's answers are kept, so that a resumed run pays for none twice

    A caption that came with a video stands where it keeps the contract; otherwise it is written anew, and counted.
    """
    from components.check_quality.step import sort_out
    from moworld.data.annotation import Annotator, VisionSettings
    from moworld.data.captions import mentions_camera_motion
    from moworld.data.clips import read_manifest

    rows, counts = read_manifest(clips), {"replaced_for_camera_motion": 0.0}
    for index, clip in enumerate(rows):
        if clip.caption and mentions_camera_motion(clip.caption):
            counts["replaced_for_camera_motion"] += 1
            rows[index] = replace(clip, caption=None)
    asked, captions, model = [clip for clip in rows if not clip.caption and not clip.scene_facts], dict[str, str](), ""
    if settings and asked:
        annotator = Annotator(VisionSettings(**settings), journal)
        told = annotator.annotate(asked, clips)
        captions, model = told.captions, annotator.settings.model
        counts |= told.counts
    captioned = [_captioned(clip, Path(clips), captions.get(clip.video_sha256), model, bool(settings)) for clip in rows]
    summary, _ = sort_out(clips, out, quarantine, ["captions"], lambda _: captioned)
    return {**summary, "captions": summary["accepted"], **counts}


def _captioned(clip: Any, folder: Path, answered: str | None, model: str, asked: bool) -> Any:
    """The clip with its caption, where it came from, and what the contract needs to know of it."""
    from moworld.data.annotation import PROMPT_VERSION
    from moworld.data.captions import appearance_caption, mentions_camera_motion, scene_caption
    from moworld.files import read_json
    from moworld.video import read_frames

    if clip.caption:
        caption, source = clip.caption, "given"
    elif clip.scene_facts:
        caption, source = scene_caption(read_json(folder / clip.scene_facts)), "engine"
    elif asked:  # no usable answer stays missing: the contract says so
        caption, source = answered, model
    else:
        caption, source = appearance_caption(read_frames(folder / clip.video, 0, 1).mean((0, 1, 2)).tolist()), "pixels"
    return replace(
        clip,
        caption=caption,
        caption_source=source,
        caption_prompt=PROMPT_VERSION if answered else None,
        caption_words=len((caption or "").split()),
        camera_phrases=len(mentions_camera_motion(caption or "")),
    )
