"""How a command ends other than well: the line on stderr, the JSON of `--json`, the exit status, and what a signal does."""

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def report(error: Exception, as_json: bool, missing_package: str) -> int:
    """Prints an error that is expected as one line on stderr and returns its exit status; raises any other error again.

    as_json:         also print {"error": {"message", "status", ...}} on stdout; bad input has "file", "field", "found", "expected", "fix"
    missing_package: the line for a ModuleNotFoundError, "" for a module that no extra installs
    """
    from moworld.disk import is_disk_full
    from moworld.errors import InputError
    from moworld.kernels import NoKernel
    from moworld_ops.components.platform.home import home
    from moworld_ops.components.platform.steps import Refused, explain

    error = path_error(error) or error
    expected = isinstance(error, InputError | NoKernel | Refused) or bool(missing_package) or is_disk_full(error)
    status, line = (2, missing_package) if missing_package else explain(error, [home()])
    if as_json:
        parts = {name: getattr(error, name) for name in ("file", "field", "found", "expected", "fix")} if isinstance(error, InputError) else {}
        print_error({"message": line, "status": status, **parts})
    if not expected:
        raise error
    print(line, file=sys.stderr)
    return status


def report_usage(error: Any, as_json: bool) -> int:
    """Prints an error of the command line's parser with the usage and returns its exit status."""
    error.show()
    if as_json:
        print_error({"message": error.format_message(), "status": error.exit_code})
    return int(error.exit_code)


def print_error(facts: dict[str, Any]) -> None:
    """Prints the JSON document of an error on stdout."""
    print(json.dumps({"error": facts}, indent=1, default=str))


def path_error(error: Exception) -> Exception | None:
    """Returns the InputError for an error of the file system that names a path; None for any other error."""
    from moworld.errors import InputError

    expected = IsADirectoryError | NotADirectoryError | FileExistsError | PermissionError | FileNotFoundError
    known = isinstance(error, expected) or getattr(error, "errno", None) in (errno.ENAMETOOLONG, errno.ELOOP)
    if not known or not isinstance(error, OSError) or not (path := error.filename2 or error.filename):  # filename2: where a file was moved
        return None
    fix = "check the path, its permissions, and that its parents are directories"
    return InputError(path, "", error.strerror, "a path that can be written or read", fix)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM end the block with exit status 143, its children first, so that nothing waits for them; a second one ends at once.

    Commands with a handler of their own replace this one while they work: `run`, and `play`, which stops its server first.
    """
    owner = os.getpid()

    def end(signum: int, frame: Any) -> None:
        signal.signal(signum, signal.SIG_DFL)
        if os.getpid() != owner:  # a forked worker inherited this handler
            os.kill(os.getpid(), signum)
            return
        import psutil

        for child in psutil.Process().children(recursive=True):
            try:
                child.terminate()
            except psutil.NoSuchProcess:
                continue
        raise SystemExit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
