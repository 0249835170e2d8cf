"""These tests run where Triton interprets: it reads TRITON_INTERPRET as it is imported, so they get a process of their own (test_triton.py)."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
