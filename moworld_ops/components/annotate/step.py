"""Step `annotate`: writes a scene caption for every clip and checks contract `captions`, which rejects camera motion (paper 2, stage 3)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moworld.data.captions import appearance_caption, count_words, mentions_camera_motion, scene_caption
from moworld.data.clips import read_manifest
from moworld.data.duplicates import FRAME_HASHES
from moworld.data.splits import require_splits
from moworld.files import link_or_copy, read_json, write_json
from moworld.video import read_frames
from moworld_ops.components.clips import filter_clips


def annotate(
    clips: str,
    out: str,
    quarantine: str,
    settings: dict[str, Any] | None,
    journal: str,
    required_splits: Sequence[str] = (),
    spending: str | None = None,
    judged: bool = True,
) -> dict[str, Any]:
    """Writes the clips with captions to `out`, and those whose caption the contract rejects to `quarantine`; returns counts.

    settings: vision endpoint (`moworld.data.settings.VisionSettings`) for clips without scene facts of an engine; None uses pixels only
    journal:  file of the endpoint's answers, so that a resumed run repeats no request
    spending: file of what the run has spent of the endpoint's budget, so that a resumed run counts it

    judged:   False for a partition (see `filter_clips`), whose frame hashes are handed on

    A caption that came with a video is kept if it mentions no camera motion; otherwise it is replaced, counted, and listed with its
    phrases in the quarantine's replaced.json.
    Raises InputError if a required split has no clip, before the first request or after the check: training has not started then.
    """
    rows, replaced = read_manifest(clips), list[dict[str, Any]]()
    require_splits("accepted clips", Counter(clip.split for clip in rows), required_splits)
    for index, clip in enumerate(rows):
        if clip.caption and clip.caption_source is None and (phrases := mentions_camera_motion(clip.caption)):
            replaced.append({"clip_id": clip.clip_id, "caption": clip.caption, "phrases": phrases})
            rows[index] = replace(clip, caption=None)
    counts = {"replaced_for_camera_motion": float(len(replaced))}
    requested, answers = [clip for clip in rows if not (clip.caption or clip.scene_facts or clip.caption_source)], dict[str, str]()
    if settings and requested:
        from moworld.data.annotation import Annotator, VisionSettings

        result = Annotator(VisionSettings(**settings), journal, spending=spending).annotate(requested, clips)
        answers = result.captions
        counts |= result.counts
    captioned = [_captioned(clip, Path(clips), answers, settings) for clip in rows]
    summary, _ = filter_clips(clips, out, quarantine, ["captions"], lambda _: captioned, judged)
    if (found := Path(clips) / FRAME_HASHES).is_file():
        link_or_copy(found, Path(out) / FRAME_HASHES)
    write_json(Path(quarantine) / "replaced.json", replaced)
    require_splits("captioned clips", Counter(clip.split for clip in read_manifest(out)), required_splits)
    return {**summary, "captions": summary["accepted"], **counts}


def _captioned(clip: Any, folder: Path, answers: dict[str, str], settings: dict[str, Any] | None) -> Any:
    """Returns the clip with its caption, the caption's origin, and the measures of contract `captions`.

    answers: captions of the vision endpoint by video_sha256. A clip without one keeps no caption, so the contract rejects it.
    """
    prompt = None
    if clip.caption_source is not None:  # of an earlier revision
        return clip
    if clip.caption:
        caption, source = clip.caption, "given"
    elif clip.scene_facts:
        caption, source = scene_caption(read_json(folder / clip.scene_facts)), "engine"
    elif settings:
        from moworld.data.annotation import PROMPT_VERSION

        caption, source = answers.get(clip.video_sha256), settings["model"]
        prompt = PROMPT_VERSION if caption else None
    else:
        caption, source = appearance_caption(read_frames(folder / clip.video, 0, 1).mean((0, 1, 2)).tolist()), "pixels"
    return replace(
        clip,
        caption=caption,
        caption_source=source,
        caption_prompt=prompt,
        caption_words=count_words(caption or ""),
        camera_phrases=len(mentions_camera_motion(caption or "")),
    )
