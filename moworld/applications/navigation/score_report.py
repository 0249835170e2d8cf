"""Runs protocol `navigate`: each agent's outcome of each task is stored and reused, so that a stopped run resumes."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from moworld.applications.navigation.head import NavigationHead
from moworld.applications.navigation.metrics import compare, mean_interval, share_interval
from moworld.applications.navigation.pictures import map_picture, strip, write_png
from moworld.applications.navigation.planners import Choice
from moworld.applications.navigation.player import Player, Seen
from moworld.applications.navigation.score import (
    AGENTS,
    ENGINE,
    NavigateSettings,
    World,
    agent_names,
    agent_of,
    facts_of,
    level_of,
    outcome_of,
    task_of,
)
from moworld.data.game import Engine
from moworld.data.game_walks import Level
from moworld.files import read_json, sha256_tree, write_json
from moworld.model.world import WorldModel, read_config

FORMAT = 1  # of the stored measurements; those of another format are measured again
MEASURES = {"spl": "SPL", "soft_spl": "SoftSPL", "ndtw": "nDTW"}
Rows = dict[str, list[dict[str, Any]]]


def evaluate_navigation(model: Path | None, head: Path | None, settings: NavigateSettings, seeds: list[int], out: Path) -> dict[str, Any]:
    """Measures all agents on the same tasks; without a model the baselines and the upper bounds only, without a head by differences of pictures.

    Stores each outcome in out/measured, a picture of each task in out/sheets, and all in out/navigate.json, which is also returned:
    {"settings", "seeds", "model", "head", "rows": {agent: [measures of a task]}, "summary": {agent: intervals}, "against": {agent: comparison}}.
    """
    from tqdm import tqdm

    facts = World(None, None) if model is None else World(None, None, *facts_of(read_config(model)))
    shape = {"size": list(facts.size_hw), "chunk": facts.chunk_frames, "speeds": list(facts.speeds)}
    key = {"format": FORMAT, **shape, **settings.model_dump(mode="json", exclude={"tasks"}), "head": head and sha256_tree(head)}
    names = agent_names(model is not None, head is not None)
    of_model = {"model": model and sha256_tree(model)}
    world: World | None = None
    rows: Rows = {name: [] for name in names}
    for seed, index in tqdm(
        [(seed, index) for seed in seeds for index in range(settings.tasks)], desc="navigate", unit="task", disable=None
    ):
        stored = {name: out / "measured" / f"{name}-{seed}-{index}.json" for name in names}
        keys = {name: key | (of_model if name in ("model", "blind") else {}) for name in names}
        if any(not stored[name].is_file() or read_json(stored[name])["key"] != keys[name] for name in names):
            world = world or _open(model, head, facts)
            _measure(world, settings, seed, index, stored, keys, out / "sheets")
        for name in names:
            rows[name].append(read_json(stored[name])["values"])
    result = {
        "settings": settings.model_dump(mode="json"),
        "seeds": seeds,
        "model": model and str(model),
        "head": head and str(head),
        "rows": rows,
    }
    result |= {"summary": summary(rows), "against": against(rows)}
    write_json(out / "navigate.json", result)
    return result


def _open(model: Path | None, head: Path | None, facts: World) -> World:
    found = None if head is None else NavigationHead.load(head, facts.size_hw)
    if model is None:
        return World(None, found, facts.size_hw, facts.chunk_frames, facts.speeds)
    return World.of(WorldModel.load(model), found)


def _measure(
    world: World, settings: NavigateSettings, seed: int, index: int, stored: dict[str, Path], keys: dict[str, Any], sheets: Path
) -> None:
    """Runs the agents without a measurement through one task; writes what they did, and pictures: a map of all agents, frames of each."""
    name = level_of(index)
    with Level(name, world.game, world.size_hw) as level, Engine(name, world.game, 0) as engine:
        player = Player(engine, world.size_hw)
        task = task_of(level, settings, seed, index)
        for name, path in stored.items():
            if path.is_file() and read_json(path)["key"] == keys[name]:
                continue
            plans: list[Any] = []
            agent = agent_of(name, world, level, settings, seed, lambda seen, choice, to=plans: to.append(_planned(level, seen, choice)))
            outcome = outcome_of(name, agent, player, task, settings, seed, index)
            values = {"level": level.name, "seed": seed, "index": index, "shortest": task.shortest, **outcome.measures(task, settings.task)}
            write_png(sheets / f"{seed}-{index}-{name}.png", strip([*outcome.seen.frames[:: world.chunk_frames], task.picture]))
            write_json(path, {"key": keys[name], "values": values | {"plans": plans}})
        values = {name: read_json(path)["values"] for name, path in stored.items()}
        paths = {name: np.array(found["path"], np.float64) for name, found in values.items()}
        plans = [np.array(plan, np.float64) for plan in values.get("model", {}).get("plans", [])]
        write_png(sheets / f"{seed}-{index}.png", map_picture(level.geometry, task, paths, plans))


def _planned(level: Level, seen: Seen, choice: Choice) -> list[list[int]]:
    """Returns the places (x, y) along a plan from where the agent is, in whole map units."""
    places = level.follow(seen.place, [keys for chunk in choice.plan for keys in chunk])
    return [[round(x), round(y)] for x, y, _ in places[::2]]


def summary(rows: Rows) -> dict[str, Any]:
    """Returns for each agent the number of tasks, and mean and interval of success and of each of MEASURES."""
    found: dict[str, Any] = {}
    for name, tasks in rows.items():
        found[name] = {"tasks": len(tasks), "success": asdict(share_interval([task["solved"] for task in tasks]))}
        found[name] |= {key: asdict(mean_interval([task[key] for task in tasks])) for key in MEASURES}
    return found


def against(rows: Rows) -> dict[str, Any]:
    """Returns how the world model compares with each other agent: success in pairs (McNemar, exact), the ratio of success, and the difference of SPL."""
    if "model" not in rows:
        return {}
    first, found = rows["model"], {}
    for name, second in rows.items():
        if name != "model":
            solved = [[bool(task["solved"]) for task in tasks] for tasks in (first, second)]
            result = compare(*solved, *([task["spl"] for task in tasks] for tasks in (first, second)))
            ratio = sum(solved[0]) / sum(solved[1]) if sum(solved[1]) else None
            found[name] = {**asdict(result), "significant": result.significant, "ratio": ratio, "baseline": name not in ENGINE}
    return found


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns rows (agent, tasks, success, SPL, SoftSPL, nDTW), each mean with its interval of 95 %."""
    shown: list[tuple[str, ...]] = []
    for name, values in result["summary"].items():
        cells = [f"{values[key]['mean']:.2f} ({values[key]['low']:.2f} to {values[key]['high']:.2f})" for key in ("success", *MEASURES)]
        shown.append((AGENTS[name], str(values["tasks"]), *cells))
    return shown


def comparison_table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns rows (agent, ratio of success, only the world model, only the agent, p, difference of SPL) of the world model against each agent."""
    shown: list[tuple[str, ...]] = []
    for name, values in result["against"].items():
        ratio = "" if values["ratio"] is None else f"{values['ratio']:.2f}"
        difference = values["difference"]
        text = f"{difference['mean']:+.2f} ({difference['low']:+.2f} to {difference['high']:+.2f})"
        shown.append((AGENTS[name], ratio, str(values["only_first"]), str(values["only_second"]), f"{values['p_value']:.3f}", text))
    return shown
