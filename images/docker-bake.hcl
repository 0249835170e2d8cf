# All images at once: docker buildx bake -f images/docker-bake.hcl -f images/bases.json --push, with COMMIT=$(git rev-parse HEAD).
# bases.json has the values of PYTHON and CANN, the bases, with their digests once they are pinned (images/README.md).
# With --metadata-file built.json, `python -m moworld_ops.components.platform.images record built.json` enters the pushed digests.
variable "REGISTRY" { default = "ghcr.io/moworld-operations" }
variable "COMMIT" { default = "" }
# A package index with other builds of torch, such as PyTorch's for CPUs; empty for the locked build with its CUDA libraries.
variable "TORCH_INDEX" { default = "" }

group "default" { targets = ["launcher", "data", "pocket", "mlflow", "train-cpu", "train-npu", "serve-npu"] }
group "cpu" { targets = ["launcher", "data", "pocket", "mlflow", "train-cpu"] }

target "_common" {
  context = "."
  labels = {
    "org.opencontainers.image.revision" = COMMIT
    "org.opencontainers.image.source"   = "https://github.com/moworld-operations/python"
    "org.opencontainers.image.licenses" = "Apache-2.0"
  }
  attest = ["type=sbom", "type=provenance,mode=max"]
}

target "_cpu" {
  inherits = ["_common"]
  args     = { PYTHON = PYTHON, TORCH_INDEX = TORCH_INDEX }
}

target "_npu" {
  inherits  = ["_common"]
  args      = { CANN = CANN, PIP_EXTRA_INDEX_URL = TORCH_INDEX }
  platforms = ["linux/arm64", "linux/amd64"]
}

target "launcher" {
  inherits   = ["_cpu"]
  dockerfile = "images/launcher/Dockerfile"
  tags       = ["${REGISTRY}/python-launcher:${COMMIT}"]
  platforms  = ["linux/arm64", "linux/amd64"]
}

target "data" {
  inherits   = ["_cpu"]
  dockerfile = "images/data/Dockerfile"
  tags       = ["${REGISTRY}/python-data:${COMMIT}"]
}

target "pocket" {
  inherits   = ["_cpu"]
  dockerfile = "images/pocket/Dockerfile"
  tags       = ["${REGISTRY}/python-pocket:${COMMIT}"]
}

target "mlflow" {
  inherits   = ["_cpu"]
  dockerfile = "images/mlflow/Dockerfile"
  tags       = ["${REGISTRY}/python-mlflow:${COMMIT}"]
}

target "train-cpu" {
  inherits   = ["_cpu"]
  dockerfile = "images/train-cpu/Dockerfile"
  tags       = ["${REGISTRY}/python-train-cpu:${COMMIT}"]
}

target "train-npu" {
  inherits   = ["_npu"]
  dockerfile = "images/train-npu/Dockerfile"
  tags       = ["${REGISTRY}/python-train-npu:${COMMIT}"]
}

target "serve-npu" {
  inherits   = ["_npu"]
  dockerfile = "images/serve-npu/Dockerfile"
  tags       = ["${REGISTRY}/python-serve-npu:${COMMIT}"]
}
