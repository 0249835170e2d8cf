"""Write a scene-level caption for every clip; camera motion is kept out, and a check proves it."""

from dataclasses import replace
from pathlib import Path
from typing import Any


def annotate(clips: str, out: str) -> dict[str, Any]:
    """Write the clips with captions. A caption that came with a video and speaks of the camera's motion is replaced, and counted."""
    from moworld.data.captions import appearance_caption, mentions_camera_motion, scene_caption
    from moworld.data.clips import carry, read_frames, read_manifest, write_manifest
    from moworld.files import atomic_folder, read_json

    rows, replaced = [], 0
    with atomic_folder(out) as target:
        for clip in read_manifest(clips):
            carry(clip, clips, target)
            caption = clip.caption
            if caption and mentions_camera_motion(caption):
                caption, replaced = None, replaced + 1
            if not caption:
                if clip.scene_facts:
                    caption = scene_caption(read_json(Path(clips) / clip.scene_facts))
                else:
                    caption = appearance_caption(read_frames(Path(clips) / clip.video, 0, 1).mean((0, 1, 2)).tolist())
            rows.append(replace(clip, caption=caption))
        write_manifest(target, rows)
    return {"captions": len(rows), "replaced_for_camera_motion": replaced}
