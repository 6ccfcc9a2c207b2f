"""The OpenAPI 3.1 document of endpoints; shapes are pydantic's JSON schemas of their bodies and replies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from rewardmesh.serving.http.body import JsonModel
from rewardmesh.serving.http.endpoint import Endpoint

Json = dict[str, Any]

_HEADERS = {
    "x-request-id": "identifier of the request, in logs and in the answer; made when left out",
    "x-tenant": "on whose behalf the request is made",
    "x-priority": "INTERACTIVE, TRAINING (default) or BATCH",
    "traceparent": "W3C trace context",
}


class FieldProblem(JsonModel):
    """One wrong field."""

    field: str
    problem: str


class Problem(JsonModel):
    """Why a request was refused."""

    code: str = Field(description="name of the gRPC status code")
    message: str
    fields: list[FieldProblem]
    request_id: str
    retry_after_seconds: float | None = Field(None, description="when to come again")


class ProblemReply(JsonModel):
    """Every answer with a status of 400 or above, but for NOT_SERVING of the health check."""

    error: Problem


def openapi_document(endpoints: Sequence[Endpoint[Any]], *, title: str, about: str, version: str) -> Json:
    """Describe the endpoints."""
    wanted: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [(ProblemReply, "serialization")]
    for endpoint in endpoints:
        wanted += [(endpoint.body, "validation")] if endpoint.body else []
        wanted += [(endpoint.reply, "serialization")] if endpoint.reply else []
    references, definitions = models_json_schema(list(dict.fromkeys(wanted)), ref_template="#/components/schemas/{model}")
    paths: Json = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": about},
        "paths": paths,
        "components": {"schemas": definitions["$defs"]},
    }


def _operation(endpoint: Endpoint[Any], references: Any) -> Json:
    problem = {"description": "Refused.", "content": {"application/json": {"schema": references[ProblemReply, "serialization"]}}}
    answers: Json = {"default": problem}
    if endpoint.reply is not None:
        schema = references[endpoint.reply, "serialization"]
        answers["200"] = {"description": _first_line(endpoint.reply), "content": {"application/json": {"schema": schema}}}
    operation: Json = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"{(\w+)}", endpoint.path)
            ),
            *({"name": name, "in": "header", "description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()),
        ],
        "responses": answers,
    }
    if endpoint.body is not None:
        schema = references[endpoint.body, "validation"]
        content = {"schema": schema} if endpoint.example is None else {"schema": schema, "example": endpoint.example}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or model.__name__).strip().splitlines()[0]
