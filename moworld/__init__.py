"""MoWorld: the world model library. It does not import kfp, Kubernetes, MLflow or DVC."""
