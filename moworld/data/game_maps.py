"""Which level of the game is in which split: the one list for all profiles, studies and applications."""

import json
from functools import cache
from pathlib import Path


@cache
def game_maps() -> dict[str, list[str]]:
    """Returns the levels of each split."""
    return json.loads((Path(__file__).parent / "game_maps.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def split_of_map(name: str) -> str:
    """Returns the split of a level, "" for an unknown one."""
    return next((split for split, names in game_maps().items() if name in names), "")
