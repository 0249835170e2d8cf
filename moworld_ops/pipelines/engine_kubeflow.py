"""Compiles pipelines for Kubeflow: KFP IR with pools and image digests (kubeflow_runs.py starts and watches runs).

One commit always compiles to the same bytes, except for kfp's `sdkVersion`: the environment is not read.
"""

import tempfile
from pathlib import Path
from typing import Any

import yaml

from moworld.errors import InputError
from moworld.files import atomic_write
from moworld_ops.components.platform.pools import parse
from moworld_ops.pipelines.catalog import PIPELINES, build
from moworld_ops.pipelines.finished_tasks import Outputs, reuse
from moworld_ops.pipelines.placement import Cluster, requirements_of
from moworld_ops.pipelines.profile import Profile


def build_for_cluster(name: str, profile: Profile, continues: str = "") -> Any:
    """Returns a compiled pipeline with every task on its pool. continues: id of the run whose checkpoints it uses; "" for none"""
    return build(name, profile, Cluster(profile.resources, requirements_of(profile), profile.images, continues))


def write_ir(graph: Any, path: Path, tags: bool = False) -> dict[str, Any]:
    """Writes a pipeline's IR and returns the result of `validate`. tags: images may be named by a tag."""
    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(graph, str(compiled))
        return _write(compiled.read_text(encoding="utf-8"), path, tags)


def write_rest(graph: Any, path: Path, finished: Outputs, tags: bool = False) -> Outputs:
    """Writes a pipeline's IR without its finished tasks and returns what `finished_tasks.reuse` has replaced."""
    write_ir(graph, path, tags)
    text, replaced = reuse(path.read_text(encoding="utf-8"), finished)
    _write(text, path, tags)
    return replaced


def _write(text: str, path: Path, tags: bool) -> dict[str, Any]:
    found = validate(text, str(path), tags)
    with atomic_write(path, "w") as stream:
        stream.write(text)
    return found


def compile_all(names: list[str], profile: Profile, out: Path) -> dict[str, dict[str, Any]]:
    """Writes OUT/<pipeline>.yaml for each name; ["all"] is every pipeline."""
    chosen = PIPELINES if names == ["all"] else names
    return {name: write_ir(build_for_cluster(name, profile), out / f"{name}.yaml", profile.images.own) for name in chosen}


def validate(text: str, source: str, tags: bool = False) -> dict[str, Any]:
    """Parses IR against the pipeline spec: no unknown field, and every image by digest, unless `tags` allows a tag.

    Returns {"tasks", "images", "trainjobs"}. Raises InputError for invalid IR.
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
        if "@sha256:" not in image and not tags:
            raise InputError(source, "image", image, "an image by digest", "add it to images.lock.json")
    graphs = [spec.root.dag, *(component.dag for component in spec.components.values() if component.HasField("dag"))]  # those of loops, too
    tasks = {name: task for graph in graphs for name, task in graph.tasks.items() if not spec.components[task.component_ref.name].HasField("dag")}
    pools = {name: parse(task.inputs.parameters["pool"].runtime_value.constant.string_value) for name, task in tasks.items()}
    return {"tasks": len(tasks), "images": images, "trainjobs": sorted(name for name, pool in pools.items() if isinstance(pool, list))}
