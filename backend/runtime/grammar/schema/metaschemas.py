"""The drafts' own metaschemas, put into a schema that refers to them. They come with `jsonschema`: nothing is fetched.

Knows nothing of what keywords mean, but for those that name or refer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any
from urllib.parse import urldefrag

from .places import DATA

HOSTS = ("http://json-schema.org/", "https://json-schema.org/")
WHOLE = ("https://json-schema.org/draft/2019-09/schema", "https://json-schema.org/draft/2020-12/schema")
"""The metaschemas that are made of several, which refer back to the whole one dynamically."""


def with_metaschemas(schema: Any) -> Any:
    """Return a schema with a definition for each metaschema that its references lead to, at any remove."""
    if not isinstance(schema, dict):
        return schema
    named = schema.get("$defs")
    if named is not None and not isinstance(named, dict):
        return schema
    found: dict[str, Any] = {}
    asked = list(_references(schema))
    straight = [uri for uri in asked if uri not in WHOLE]
    while asked:
        uri = asked.pop()
        if uri not in found and (metaschema := _metaschema(uri)) is not None:
            found[uri] = metaschema
            asked += _references(metaschema, uri)
    if not found:
        return schema
    for uri, metaschema in found.items():
        draft = uri.rpartition("/draft/")[2].partition("/")[0]
        if not any(f"/draft/{draft}/" in other for other in straight):
            _made_static(metaschema, f"https://json-schema.org/draft/{draft}/schema")
    return {**schema, "$defs": {**(named or {}), **found}}


def _metaschema(uri: str) -> Any:
    """Return a copy of a metaschema, named by `uri` in all drafts; None if there is none."""
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import NoSuchResource

    for name in (uri, uri + "#"):
        try:
            contents = copy.deepcopy(dict(REGISTRY.contents(name)))
        except NoSuchResource:
            continue
        return {**contents, "$id": uri, "id": uri}
    return None


def _references(schema: Any, base: str = "") -> Iterator[str]:
    """Yield the URIs below the drafts' own host that a schema refers to, without their fragments."""
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str):
                uri = urldefrag(reference).url
                if base and uri.startswith("meta/"):
                    uri = base.rpartition("/")[0] + "/" + uri
                if uri.startswith(HOSTS):
                    yield uri
            stack += [value for name, value in node.items() if name not in DATA]
        elif isinstance(node, list):
            stack += node


def _made_static(node: Any, whole: str) -> None:
    """Make the dynamic references of a metaschema lead to the whole one: it is the only way in, so they always do."""
    if isinstance(node, dict):
        for name in ("$dynamicRef", "$recursiveRef"):
            if isinstance(node.get(name), str):
                del node[name]
                node["$ref"] = whole
        for name in ("$dynamicAnchor", "$recursiveAnchor"):
            if not isinstance(node.get(name), (dict, list)):
                node.pop(name, None)
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _made_static(value, whole)
