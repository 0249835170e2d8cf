"""Where Kubeflow Pipelines keeps artifacts: its URIs, with the endpoint and the secret that its launchers use.

KFP names artifacts minio://, s3:// or gs://. Config map `kfp-launcher` of the namespace has their endpoints and the names of their
secrets; without it minio:// is the store that comes with KFP.
"""

import json
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import yaml

from moworld.errors import InputError

CONFIG_MAP = "kfp-launcher"
BUNDLED = {  # of KFP 2.17, for minio:// without providers
    "endpoint": "seaweedfs.kubeflow:9000",
    "disableSSL": True,
    "credentials": {"secretRef": {"secretName": "mlpipeline-minio-artifact", "accessKeyKey": "accesskey", "secretKeyKey": "secretkey"}},
}
Read = Callable[[str], Any]  # an object of the namespace by "configmaps/NAME" or "secrets/NAME"; None, or {"forbidden": True}


def location(uri: str, read: Read) -> tuple[str, dict[str, Any]]:
    """Returns the URI of an artifact and the options with which fsspec opens it.

    Raises InputError if the config map or the secret cannot be read, or has not what KFP itself needs.
    """
    scheme, _, path = uri.partition("://")
    if scheme not in ("minio", "s3", "gs") or "?" in path:  # "?": the store is part of the URI
        return uri, {}
    provider = _provider(scheme, path, read)
    if provider is None or provider.get("credentials", {}).get("fromEnv"):
        return (f"s3://{path}" if scheme == "minio" else uri), {}
    reference = provider.get("credentials", {}).get("secretRef") or {}
    secret = _object(f"secrets/{reference.get('secretName', '')}", read)
    data = {key: b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
    try:
        if scheme == "gs":
            return uri, {"token": json.loads(data[reference["tokenKey"]])}
        keys = {"key": data[reference["accessKeyKey"]], "secret": data[reference["secretKeyKey"]]}
    except (KeyError, ValueError) as error:
        raise InputError(f"secret {reference.get('secretName')}", "", error, "the keys that kfp-launcher names", "correct either") from None
    options: dict[str, Any] = keys
    if endpoint := str(provider.get("endpoint") or ""):
        bare = "://" not in endpoint
        options["endpoint_url"] = f"{'http' if provider.get('disableSSL') else 'https'}://{endpoint}" if bare else endpoint
    if region := provider.get("region"):
        options["client_kwargs"] = {"region_name": region}
    return f"s3://{path}", options


def _provider(scheme: str, path: str, read: Read) -> dict[str, Any] | None:
    """Returns what the config map says of a URI's bucket and prefix; None if it says nothing, so that the environment counts."""
    found = read(f"configmaps/{CONFIG_MAP}")
    if found is not None and found.get("forbidden"):
        raise InputError(f"config map {CONFIG_MAP}", "", "no permission to read it", "KFP's own configuration", "apply the overlay of manifests/")
    try:
        providers = yaml.safe_load(((found or {}).get("data") or {}).get("providers") or "{}")
        chosen = dict((providers or {}).get(scheme) or {})
    except (yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"config map {CONFIG_MAP}", "providers", error, "YAML as KFP reads it", "correct it") from None
    if not chosen:
        return BUNDLED if scheme == "minio" else None
    bucket, _, key = path.partition("/")
    overrides = chosen.get("Overrides") or chosen.get("overrides") or []
    match: dict[str, Any] = next((one for one in overrides if one.get("bucketName") == bucket and key.startswith(one.get("keyPrefix") or "")), {})
    return {**(chosen.get("default") or {}), **match}


def _object(path: str, read: Read) -> dict[str, Any]:
    found = read(path)
    if found is None or found.get("forbidden"):
        seen = "nothing" if found is None else "no permission to read it"
        raise InputError(path.replace("s/", " ", 1), "", seen, "the secret of KFP's artifact store", "create it, or allow the launcher to read it")
    return dict(found)
