"""Errors of remote file systems: what the libraries behind fsspec raise, as one InputError that names the URI."""

import sys

from moworld.errors import InputError

RAISED = (("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"), ("aiohttp", "ClientError"))


def remote_errors() -> tuple[type[BaseException], ...]:
    """Returns the types of errors of remote reads. Libraries that are not loaded have raised none, and are not imported."""
    found = [getattr(sys.modules[module], name) for module, name in RAISED if module in sys.modules]
    return (OSError, ValueError, ImportError, *found)


def unreadable(uri: str, error: BaseException) -> InputError:
    """Returns the error for a URI that cannot be read: missing credentials, an endpoint that does not answer, no such object."""
    text, name = " ".join(str(error).split())[:200], type(error).__name__
    fix = "check the path or the URI's protocol"
    if "Credentials" in name or "credentials" in text:
        fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif "Connect" in name:
        fix = "check the network and AWS_ENDPOINT_URL"
    return InputError(uri, "", f"{name}: {text}", "a readable file or folder", fix)
