"""Retries of requests to the cluster's API server."""

import threading

import pytest

from moworld_ops.components.platform.cluster import Stopped, with_retries


def test_retries_keep_to_retry_after_and_stop_when_asked(cluster):
    from kubernetes.client import ApiException

    stop, waits = threading.Event(), []
    stop.wait = lambda seconds: waits.append(seconds) or len(waits) == 4  # type: ignore[method-assign]
    errors = [ApiException(status=503), ApiException(status=429), ApiException(status=500), ApiException(status=0)]
    errors[1].headers = {"Retry-After": "7"}

    def request() -> None:
        raise errors[len(waits)]

    with pytest.raises(Stopped):
        with_retries(request, stop, first_wait=0.5)
    assert waits == [0.5, 7.0, 2.0, 4.0]
    final = ApiException(status=403)
    with pytest.raises(ApiException):
        with_retries(lambda: (_ for _ in ()).throw(final), threading.Event())


def test_an_outage_ends_in_one_error_with_the_last_status(cluster):
    from kubernetes import client

    cluster.fault = lambda method, path: "503"
    custom = client.CustomObjectsApi(client.ApiClient(client.Configuration(host=cluster.url)))
    with pytest.raises(ConnectionError, match=r"did not respond within 0 s \(503"):
        with_retries(lambda: custom.get_cluster_custom_object("a.b", "v1", "queues", "x"), threading.Event(), seconds=0.2, first_wait=0.05)
    assert len(cluster.requests) == 0
