"""Section `images` of a profile: images of an installation's own registry or nodes, in place of those in images.lock.json."""

from typing import Annotated

from pydantic import AfterValidator, Field

from moworld.settings import Settings

DIGEST = r"^sha256:[0-9a-f]{64}$"
TAG = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"


def _fixed(tag: str) -> str:
    """Returns the tag. Raises ValueError for one that Kubernetes pulls at each start, also if a node has it."""
    if tag == "latest":
        raise ValueError("a tag of one build, not `latest`")
    return tag


class ImageSettings(Settings):
    """The default is the lock: its repositories and digests."""

    registry: str = Field(default="", pattern=r"^[^@\s]*[^@\s/]$|^$", description="prefix of the names, as in registry.example:5000/moworld")
    tag: Annotated[str, Field(pattern=TAG), AfterValidator(_fixed)] | None = Field(default=None, description="one tag for all images")
    digests: dict[str, Annotated[str, Field(pattern=DIGEST)]] = Field(default={}, description="image name to sha256:..., before the tag")

    def reference(self, name: str, locked: str) -> str:
        """Returns the reference of an image. `locked` is the one in the lock: repository@digest."""
        repository, _, digest = locked.partition("@")
        repository = f"{self.registry}/{repository.rpartition('/')[2]}" if self.registry else repository
        if name in self.digests or self.tag is None:
            return f"{repository}@{self.digests.get(name, digest)}"
        return f"{repository}:{self.tag}"

    @property
    def own(self) -> bool:
        """True if the images are not simply those of the lock."""
        return self != ImageSettings()
