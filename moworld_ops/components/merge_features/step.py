"""Step `merge_features`: makes one feature folder of those of all partitions. Tensors are not read: shards are hard links."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def merge_features(parts: Sequence[str], out: str) -> dict[str, Any]:
    """Writes the shards of all partitions, one index, licences.json, world.json and codec/; returns counts.

    parts: feature folders that `cache_features` wrote for partitions; one without clips has no index
    Raises InputError if no partition has a clip.
    """
    from moworld.data.features import merge_feature_folders
    from moworld.errors import InputError
    from moworld.files import atomic_folder, read_json, write_json
    from moworld_ops.components.cache_features.step import PARTITION_FACTS, common_intrinsics, frame_rates

    used = [Path(part) for part in parts if (Path(part) / "index.parquet").is_file()]
    if not used:
        raise InputError("features", "", "no clip in any partition", "at least one", "see what the quality check put into quarantine")
    with atomic_folder(out) as target:
        rows = merge_feature_folders(used, target)
        facts = [fact for part in used for fact in read_json(part / PARTITION_FACTS)]
        world = read_json(used[0] / "world.json")
        lenses = [(frames, lens) for frames, _, lens in facts]
        world |= {"fps": frame_rates([(frames, rate) for frames, rate, _ in facts])[0][0]}
        write_json(target / "world.json", world | {"intrinsics": [round(value, 6) for value in common_intrinsics(lenses)]})
    return {"clips": rows, "partitions": len(parts)}
