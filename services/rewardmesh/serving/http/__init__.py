"""JSON over HTTP beside gRPC: endpoints that are declared once, answered in the same event loop, and described by an OpenAPI document."""

from rewardmesh.serving.http.body import HttpError, JsonModel
from rewardmesh.serving.http.caller import HttpCaller
from rewardmesh.serving.http.documentation import documented
from rewardmesh.serving.http.endpoint import Endpoint, Received, Reply, build_app
from rewardmesh.serving.http.listener import HttpListener
from rewardmesh.serving.http.numbers import microseconds, shortest

__all__ = [
    "Endpoint",
    "HttpCaller",
    "HttpError",
    "HttpListener",
    "JsonModel",
    "Received",
    "Reply",
    "build_app",
    "documented",
    "microseconds",
    "shortest",
]
