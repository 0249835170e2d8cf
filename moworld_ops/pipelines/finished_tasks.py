"""Takes finished tasks out of a compiled pipeline: importers of their outputs replace them, so that a new run continues an earlier one."""

import json
from typing import Any

import yaml

CHECKS = "preflight"  # runs again, and checks that the outputs of the finished tasks still exist
Outputs = dict[str, dict[str, str]]  # URIs by task and output


def reuse(text: str, finished: Outputs) -> tuple[str, Outputs]:
    """Returns a pipeline's IR in which importers replace the finished tasks, and the tasks that were replaced, with their outputs.

    A finished task is not replaced if this pipeline has no such task, if the task has other outputs than then, or if it reads from a task
    that runs again.
    """
    spec, *platforms = [document for document in yaml.safe_load_all(text) if document]
    tasks, done = spec["root"]["dag"]["tasks"], _replaceable(spec, finished)
    read: dict[str, str] = {}
    for name in [name for name in tasks if name not in done]:
        importers = []
        for source in tasks[name].get("inputs", {}).get("artifacts", {}).values():
            reference = source.get("taskOutputArtifact", {})
            producer, output = reference.get("producerTask"), reference.get("outputArtifactKey")
            if producer in done:
                importer = f"{producer}-{output}"
                read[importer] = done[producer][output]
                kind = _component(spec, producer)["outputDefinitions"]["artifacts"][output]["artifactType"]
                _add_importer(spec, importer, done[producer][output], kind)
                reference.update(producerTask=importer, outputArtifactKey="artifact")
                importers.append(importer)
        waits = {one for one in tasks[name].get("dependentTasks", []) if one not in done} | set(importers)
        if waits:
            tasks[name]["dependentTasks"] = sorted(waits)
        else:
            tasks[name].pop("dependentTasks", None)
    for name in done:
        del tasks[name]
    _require(tasks, sorted(set(read.values())))
    _remove_unused(spec, platforms)
    return yaml.safe_dump_all([spec, *platforms], sort_keys=True), done


def _replaceable(spec: dict[str, Any], finished: Outputs) -> Outputs:
    tasks = spec["root"]["dag"]["tasks"]
    made = {name: set(_component(spec, name).get("outputDefinitions", {}).get("artifacts", {})) for name in tasks}
    done = {name: finished[name] for name in tasks if name != CHECKS and name in finished and made[name] <= set(finished[name])}
    imported = {name for name in tasks if "importer" in _executor(spec, name)}
    while stale := {name for name in done if _producers(tasks[name]) - imported - set(done)}:
        done = {name: outputs for name, outputs in done.items() if name not in stale}
    return done


def _producers(task: dict[str, Any]) -> set[str]:
    sources = task.get("inputs", {}).get("artifacts", {}).values()
    return {source["taskOutputArtifact"]["producerTask"] for source in sources if "taskOutputArtifact" in source}


def _component(spec: dict[str, Any], task: str) -> dict[str, Any]:
    return dict(spec["components"][spec["root"]["dag"]["tasks"][task]["componentRef"]["name"]])


def _executor(spec: dict[str, Any], task: str) -> dict[str, Any]:
    return dict(spec["deploymentSpec"]["executors"][_component(spec, task)["executorLabel"]])


def _add_importer(spec: dict[str, Any], name: str, uri: str, kind: dict[str, Any]) -> None:
    """Adds a task with one output, `artifact`, as kfp compiles `dsl.importer` with a constant URI."""
    spec["components"][f"comp-{name}"] = {
        "executorLabel": f"exec-{name}",
        "inputDefinitions": {"parameters": {"uri": {"parameterType": "STRING"}}},
        "outputDefinitions": {"artifacts": {"artifact": {"artifactType": dict(kind)}}},
    }
    spec["deploymentSpec"]["executors"][f"exec-{name}"] = {"importer": {"artifactUri": {"constant": uri}, "typeSchema": dict(kind)}}
    spec["root"]["dag"]["tasks"][name] = {
        "cachingOptions": {"enableCache": True},
        "componentRef": {"name": f"comp-{name}"},
        "inputs": {"parameters": {"uri": {"runtimeValue": {"constant": uri}}}},
        "taskInfo": {"name": name},
    }


def _require(tasks: dict[str, Any], uris: list[str]) -> None:
    """Adds artifacts to those that step preflight checks, if the pipeline has one."""
    if CHECKS in tasks:
        value = tasks[CHECKS]["inputs"]["parameters"]["settings"]["runtimeValue"]
        settings = json.loads(value["constant"])
        settings["artifacts"] = sorted({*settings["artifacts"], *uris})
        value["constant"] = json.dumps(settings, sort_keys=True)


def _remove_unused(spec: dict[str, Any], platforms: list[dict[str, Any]]) -> None:
    """Removes components and executors that no task uses; KFP accepts them, but a reader would look for their tasks."""
    used = {task["componentRef"]["name"] for task in spec["root"]["dag"]["tasks"].values()}
    spec["components"] = {name: component for name, component in spec["components"].items() if name in used}
    labels = {component["executorLabel"] for component in spec["components"].values()}
    for place in (spec, *(one["platforms"]["kubernetes"] for one in platforms)):
        executors = place["deploymentSpec"]["executors"]
        place["deploymentSpec"]["executors"] = {label: executor for label, executor in executors.items() if label in labels}
