"""Settings of the data steps: sources of clips, game recording, camera verification, captions. Imports no heavy package."""

import re
from typing import Literal

from pydantic import Field, model_validator

from moworld.data.game_maps import split_of_map
from moworld.model.latent_grid import NumFrames
from moworld.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, Seed, Settings


class GameSettings(Settings):
    """Game recording: levels of the three splits, episodes per level, picture size and speeds. A level's split is that of `game_maps`."""

    train_maps: tuple[str, ...] = ("MAP01",)
    validation_maps: tuple[str, ...] = ()
    held_out_maps: tuple[str, ...] = ()
    train_episodes_per_map: PositiveInt = 2
    other_episodes_per_map: PositiveInt = 1
    frames_per_episode: NumFrames = 289
    width: int = Field(320, ge=1, le=8192)
    height: int = Field(240, ge=1, le=8192)
    fps: float = Field(17.5, gt=0, le=1000)
    units_per_frame: float = Field(10.0, ge=4, le=24)
    yaw_degrees_per_frame: float = Field(3.0, gt=0, le=15)
    min_stretch_frames: PositiveInt = 8
    max_stretch_frames: PositiveInt = 30
    look_share: float = Field(0.0, ge=0, le=1)  # of a walk's stretches that look up or down and back; above 0 the engine renders wider
    min_brightness: float = Field(64.0, ge=0, le=255)
    min_texture: NonNegativeFloat = 5.0
    gamma: float = Field(1.7, gt=0, le=100)
    attempts: PositiveInt = 80
    crf: int = Field(18, ge=0, le=51)
    workers: int | None = Field(None, ge=1, le=4096)  # levels recorded at the same time; default: one per available CPU

    @model_validator(mode="after")
    def _consistent(self) -> "GameSettings":
        maps = [*self.train_maps, *self.validation_maps, *self.held_out_maps]
        twice = sorted({name for name in maps if maps.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed twice")
        for split in ("train", "validation", "held_out"):
            for name in getattr(self, f"{split}_maps"):
                if (own := split_of_map(name)) not in (split, ""):
                    raise ValueError(f"{name} is a level of the split {own}, not {split}; see moworld/data/game_maps.json")
        if self.frames_per_episode < 5:
            raise ValueError("frames_per_episode is below 5, the shortest clip")
        if self.max_stretch_frames < self.min_stretch_frames:
            raise ValueError("max_stretch_frames is below min_stretch_frames")
        return self

    def episodes(self) -> list[tuple[str, str, int]]:
        """Returns (split, map, number of episodes) of every level."""
        splits = (("train", self.train_maps), ("validation", self.validation_maps), ("held_out", self.held_out_maps))
        count = {"train": self.train_episodes_per_map}
        return [(split, name, count.get(split, self.other_episodes_per_map)) for split, maps in splits for name in maps]


class PrivacySettings(Settings):
    """Section `data.privacy`: what is made unrecognisable in imported videos. Frames of games are not changed.

    faces: blur frontal faces of 24 pixels or more in the pictures of the clips; profiles and faces that are tilted or covered are missed
    """

    faces: bool = False


class DataSettings(Settings):
    """The profile's section `data`: training size and the two sources of clips."""

    height: int = Field(64, ge=16, le=8192, multiple_of=16)
    width: int = Field(96, ge=16, le=8192, multiple_of=16)
    game: GameSettings | None = None
    videos: str | None = None  # a video, a folder, a .txt list of either, or an fsspec URI of one of them
    append: bool = True  # pipeline `data` extends the newest data revision; false: its revision has only the footage of the run
    keep_codec: bool = True  # a revision that extends another one has its codec; false: it is trained, and all clips are encoded, again
    min_frames: int = Field(33, ge=5, le=1_000_000)  # shorter shots are rejected
    max_frames: int = Field(2001, ge=5, le=1_000_000)  # longer shots are cut into clips of this length
    max_height: int = Field(240, ge=32, le=8192)  # videos are scaled down to it
    fps: float | None = Field(None, gt=0, le=1000)  # videos of a higher rate are resampled to it; default: each keeps its own
    cut_threshold: float = Field(0.35, gt=0, le=1)  # how much two frames differ at a shot cut, 0 to 1
    still_seconds: float = Field(1.0, gt=0, le=1e9)  # a picture that does not change for longer is cut out
    workers: int | None = Field(None, ge=1, le=4096)  # videos decoded at the same time, one process each; default: one per available CPU
    validation_share: float = Field(0.05, ge=0, lt=1)  # of the sources of imported videos, by a hash of their name
    held_out_share: float = Field(0.1, ge=0, lt=1)
    validation_videos: tuple[str, ...] = ()  # names of sources; a split with names gets no share of the others
    held_out_videos: tuple[str, ...] = ()
    split_seed: Seed = 0
    partitions: int = Field(1, ge=1, le=32, description="parts of the footage whose steps run side by side")
    partitions_at_once: int = Field(8, ge=1, le=32, description="of them; on one machine at most two run at once")
    source_pattern: str = r"([^/]+)\.[^./]+$"  # its first group in a video's path is the source's name: here the file name without suffix
    crf: int = Field(18, ge=0, le=51)
    privacy: PrivacySettings = PrivacySettings()
    licences: dict[Literal["game", "video"], str] = Field(
        default={}, description="SPDX identifier of each source's footage; gates may require it"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "DataSettings":
        both = sorted(set(self.validation_videos) & set(self.held_out_videos))
        if both:
            raise ValueError(f"{', '.join(both)} is listed in validation_videos and held_out_videos")
        if self.validation_share + self.held_out_share >= 1:
            raise ValueError("validation_share and held_out_share leave no footage for training")
        try:
            groups = re.compile(self.source_pattern).groups
        except re.error as error:
            raise ValueError(f"source_pattern is no regular expression: {error}") from None
        if not groups:
            raise ValueError("source_pattern has no group for the source's name")
        return self


class GeometrySettings(Settings):
    """Camera verification and structure from motion (SfM).

    pairs, gap:   number of frame pairs that are matched to verify a clip, and their distance in frames
    features:     SIFT features per frame for verification
    sfm_every:    SfM uses every n-th frame
    sfm_features: SIFT features per frame for SfM
    sfm_window, sfm_overlap: frames per SfM window, and how many of them the next window shares
    prior_lens:   typical focal length over the longer side of the picture, for clips whose pictures do not determine the lens
    """

    pairs: PositiveInt = 8
    gap: PositiveInt = 3
    features: PositiveInt = 600
    sfm_every: PositiveInt = 3
    sfm_features: PositiveInt = 2000
    sfm_window: PositiveInt = 160
    sfm_overlap: NonNegativeInt = 20
    prior_lens: float = Field(default=0.8, ge=0.2, le=5)


class VisionSettings(Settings):
    """OpenAI-compatible vision endpoint for captions. The environment variable `key_variable` holds the key, never a profile.

    asks: how often a caption that mentions the camera is requested again before it is kept, and the contract rejects it
    """

    url: str = Field(description="with /v1, for example http://qwen-vl:8000/v1")
    model: str
    key_variable: str = "MOWORLD_VISION_KEY"
    frames: PositiveInt = 6
    max_side: int = Field(448, ge=28, le=8192)
    concurrency: int = Field(8, ge=1, le=4096)
    attempts: PositiveInt = 5
    asks: NonNegativeInt = 2
    first_delay_seconds: NonNegativeFloat = 1.0
    longest_delay_seconds: NonNegativeFloat = 60.0
    timeout_seconds: float = Field(60.0, gt=0, le=1e9)
    max_tokens: PositiveInt = 200
    budget_tokens: PositiveInt | None = Field(None, description="tokens of all requests of a run, as the server reports them; default: no limit")
    input_price: NonNegativeFloat = Field(0.0, description="per million tokens")
    output_price: NonNegativeFloat = Field(0.0, description="per million tokens")
