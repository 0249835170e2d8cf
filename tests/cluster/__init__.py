"""Kubernetes in tests: `fake.py` is a hand-made API server, `control_plane.py` starts the real one."""

from tests.cluster.fake import *  # noqa: F403
