"""The Kubeflow engine's compiler: KFP IR with pools and image digests in place (kubeflow_runs.py starts and follows runs of it).

The same commit compiles to the same bytes (save kfp's own `sdkVersion`): nothing is read from the environment.
"""

import tempfile
from pathlib import Path
from typing import Any

import yaml

from moworld.errors import InputError
from moworld.files import atomic_write
from pipelines.catalog import PIPELINES, build
from pipelines.placement import Cluster, wanted_of
from pipelines.profile import Profile


def compile_pipeline(name: str, profile: Profile, path: Path) -> dict[str, Any]:
    """Write a pipeline's IR and return what `validate` found in it."""
    from kfp import compiler

    graph = build(name, profile, Cluster(profile.resources, wanted_of(profile)))
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(graph, str(whole))
        text = whole.read_text(encoding="utf-8")
    found = validate(text, str(path))
    with atomic_write(path, "w") as stream:
        stream.write(text)
    return found


def compile_all(names: list[str], profile: Profile, out: Path) -> dict[str, dict[str, Any]]:
    """Write OUT/<pipeline>.yaml for each name ("all" for every pipeline)."""
    chosen = list(PIPELINES) if names == ["all"] else names
    return {name: compile_pipeline(name, profile, out / f"{name}.yaml") for name in chosen}


def validate(text: str, source: str) -> dict[str, Any]:
    """Load IR back against the pipeline spec: no unknown field, and every image by digest.

    Returns {"tasks", "images", "trainjobs"}. Raises InputError for IR that is not whole.
    """
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes_spec
    from kfp.pipeline_spec import pipeline_spec_pb2

    documents = [document for document in yaml.safe_load_all(text) if document]
    try:
        spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        for document in documents[1:]:
            for configuration in document["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
                json_format.ParseDict(configuration, kubernetes_spec.KubernetesExecutorConfig())
    except (json_format.ParseError, KeyError, IndexError, TypeError) as error:
        raise InputError(source, "", f"text that is no pipeline ({error})", "KFP IR", "compile it again") from None
    executors = documents[0]["deploymentSpec"]["executors"]
    images = sorted({executor["container"]["image"] for executor in executors.values() if "container" in executor})
    for image in images:
        if "@sha256:" not in image:
            raise InputError(source, "image", image, "an image by digest", "add it to images/lock.json")
    jobs = [name for name, task in spec.root.dag.tasks.items() if task.inputs.parameters["pool"].runtime_value.constant.string_value]
    return {"tasks": len(spec.root.dag.tasks), "images": images, "trainjobs": sorted(jobs)}
