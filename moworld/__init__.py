"""MoWorld: the world model itself. Knows nothing of kfp, Kubernetes, MLflow or DVC."""
