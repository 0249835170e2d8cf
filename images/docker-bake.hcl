# All images at once: docker buildx bake -f images/docker-bake.hcl --push, with COMMIT=$(git rev-parse HEAD).
# Afterwards put the pushed digests into images/lock.json (published: true) and run `make lock`.
variable "REGISTRY" { default = "ghcr.io/moworld-operations" }
variable "COMMIT" { default = "" }

group "default" { targets = ["data", "pocket", "mlflow", "train-npu", "serve-npu"] }
group "cpu" { targets = ["data", "pocket", "mlflow"] }

target "_common" {
  context = "."
  labels = {
    "org.opencontainers.image.revision" = COMMIT
    "org.opencontainers.image.source"   = "https://github.com/moworld-operations/python"
    "org.opencontainers.image.licenses" = "Apache-2.0"
  }
  attest = ["type=sbom", "type=provenance,mode=max"]
}

target "data" {
  inherits   = ["_common"]
  dockerfile = "images/data/Dockerfile"
  tags       = ["${REGISTRY}/python-data:${COMMIT}"]
}

target "pocket" {
  inherits   = ["_common"]
  dockerfile = "images/pocket/Dockerfile"
  tags       = ["${REGISTRY}/python-pocket:${COMMIT}"]
}

target "mlflow" {
  inherits   = ["_common"]
  dockerfile = "images/mlflow/Dockerfile"
  tags       = ["${REGISTRY}/python-mlflow:${COMMIT}"]
}

target "train-npu" {
  inherits   = ["_common"]
  dockerfile = "images/train-npu/Dockerfile"
  platforms  = ["linux/arm64", "linux/amd64"]
  tags       = ["${REGISTRY}/python-train-npu:${COMMIT}"]
}

target "serve-npu" {
  inherits   = ["_common"]
  dockerfile = "images/serve-npu/Dockerfile"
  platforms  = ["linux/arm64", "linux/amd64"]
  tags       = ["${REGISTRY}/python-serve-npu:${COMMIT}"]
}
