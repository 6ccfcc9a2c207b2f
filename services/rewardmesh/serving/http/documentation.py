"""`/openapi.json` and `/docs` for a set of endpoints. The page is whole in itself: it loads nothing from elsewhere and works offline."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from rewardmesh.serving.http.endpoint import Endpoint, Received, Reply
from rewardmesh.serving.http.openapi import Json, openapi_document

_NOTHING_FROM_ELSEWHERE = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


def documented(endpoints: Sequence[Endpoint[Any]], title: str, about: str, version: str) -> list[Endpoint[Any]]:
    """The endpoints with two more that describe them."""
    document = openapi_document([each for each in endpoints if each.documented], title=title, about=about, version=version)
    page = Reply(docs_page(document), media_type="text/html", headers={"content-security-policy": _NOTHING_FROM_ELSEWHERE})

    def always(reply: Reply) -> Callable[[Received[Any]], Any]:
        async def answer(_: Received[Any]) -> Reply:
            return reply

        return answer

    return [
        *endpoints,
        Endpoint("GET", "/openapi.json", "OpenApi", "This document.", always(Reply(json.dumps(document))), documented=False),
        Endpoint("GET", "/docs", "Docs", "The document as a page.", always(page), documented=False),
    ]


def docs_page(document: Json) -> str:
    """One HTML page with every operation, its fields, a form to try it, and all shapes."""
    info = document["info"]
    operations = "".join(
        _operation(path, method, operation) for path, methods in document["paths"].items() for method, operation in methods.items()
    )
    shapes = "".join(_shape(name, schema) for name, schema in sorted(document["components"]["schemas"].items()))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1><p>{escape(info['description'])}</p>"
        f"<p>As an OpenAPI document: <a href=/openapi.json>/openapi.json</a></p>{operations}<h2>Shapes</h2>{shapes}"
        f"<script>{_SCRIPT}</script></html>"
    )


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    body, example = content.get("schema"), json.dumps(content.get("example", {}), indent=1)
    reply = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema")
    shapes = "".join(f" · {name}: {_type(schema)}" for name, schema in (("body", body), ("answer", reply)) if schema)
    field = f"<textarea rows=8 aria-label=body>{escape(example)}</textarea>" if body else ""
    return (
        f"<section><h2><b>{method.upper()}</b> <code>{escape(path)}</code></h2><p>{escape(operation['summary'])}{shapes}</p>"
        f"<details><summary>Try it</summary><form data-method={method.upper()}>"
        f"<input value='{escape(path)}' aria-label=path>{field}<button>Send</button><pre></pre></form></details></section>"
    )


def _shape(name: str, schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code>{'' if field in required else ' <small>optional</small>'}<td>{_type(about)}"
        f"<td>{escape(about.get('description', ''))}"
        for field, about in schema.get("properties", {}).items()
    )
    return f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{escape(schema.get('description', ''))}</p><table>{rows}</table>"


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words, as HTML; named shapes are links."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(each))}</code>" for each in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"by name: {_type(schema['additionalProperties'])}"
    return escape(str(kind))


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
small{color:#57606a;font-weight:normal}h2 b{color:#0550ae}h2{border-top:1px solid #d0d7de;padding-top:1rem;font-size:1.1rem}
table{border-collapse:collapse;width:100%}td{border:1px solid #d0d7de;padding:.3rem .5rem;vertical-align:top}
textarea,input{width:100%;box-sizing:border-box;font:14px monospace;margin:.3rem 0}
pre{white-space:pre-wrap;background:#f6f8fa;padding:.5rem}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}pre{background:#161b22}a,h2 b{color:#79c0ff}
textarea,input{color:inherit;background:#161b22}td,h2{border-color:#30363d}}
"""

_SCRIPT = """
for (const form of document.forms) form.onsubmit = async (event) => {
  event.preventDefault();
  const body = form.querySelector("textarea")?.value, out = form.querySelector("pre");
  try {
    const reply = await fetch(form.querySelector("input").value,
      {method: form.dataset.method, body, headers: body ? {"content-type": "application/json"} : {}});
    const text = await reply.text();
    try { out.textContent = reply.status + "\\n" + JSON.stringify(JSON.parse(text), null, 2); }
    catch { out.textContent = reply.status + "\\n" + text; }
  } catch (error) { out.textContent = String(error); }
};
"""
