"""Video files: decoded once, correctly, and written frame by frame.

Every picture that leaves this package is upright, has square pixels, is progressive and is SDR with BT.709 primaries.
"""

from moworld.video.container import Frames, VideoInfo, video_info
from moworld.video.decoding import Decoder, Picture, iterate_frames, read_frames
from moworld.video.normalise import Form
from moworld.video.timing import Timeline, timeline
from moworld.video.writing import video_suffix, write_video

__all__ = ["Decoder", "Form", "Frames", "Picture", "Timeline", "VideoInfo", "iterate_frames", "read_frames", "timeline", "video_info", "video_suffix", "write_video"]
