"""`tool_list`: any list of tools as a checked one. One bad tool never takes the others down.

Knows nothing of how schemas are enforced: a backend has its own look at them when a program is bound to it.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping
from types import MethodType
from typing import Any, NamedTuple

from ..errors import ToolError
from ..sampling import shown
from .parameters import ModelParameters, PlainParameters
from .raw import argument_schema, read_raw
from .spec import ToolSpec, check_name
from .tool import Tool, tool

log = logging.getLogger("sgl")


class RefusedTool(NamedTuple):
    """A tool that was left out of a list, and why: its name, and a message with the pointer and the keyword."""

    name: str
    why: str


class ToolList(tuple[Tool[Any, Any], ...]):
    """Tools with different names. `refused` are those that were left out."""

    refused: tuple[RefusedTool, ...] = ()

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What a model is told of each."""
        return tuple(tool.spec for tool in self)

    def named(self, name: str) -> Tool[Any, Any] | None:
        """The tool of this name; None if there is none."""
        return next((tool for tool in self if tool.name == name), None)

    def without(self, refused: Iterable[RefusedTool]) -> ToolList:
        """Leave further tools out. Raises `ToolError` if one of them is the program's own; warns of any other."""
        said = tuple(refused)
        for name, why in said:
            if (tool := self.named(name)) is not None and tool.own:
                raise ToolError(why)
            log.warning("%s; it is left out", why)
        gone = {name for name, _ in said}
        kept = ToolList(tool for tool in self if tool.name not in gone)
        kept.refused = (*self.refused, *said)
        return kept


def tool_list(tools: Iterable[Any]) -> ToolList:
    """Make a checked list of tools.

    Args:
        tools: `Tool`s, plain functions, pydantic models or dataclasses (the tool gives an instance), mappings in the
            form of OpenAI, Anthropic or MCP, and open MCP servers (`sgl.mcp_tools`).

    Returns:
        The tools that can be used, in order. What was wrong with others is in `refused`, and in the log.

    Raises:
        ToolError: A tool of the program's own is wrong, or something is no tool.
    """
    if isinstance(tools, ToolList):
        return tools
    if isinstance(tools, (str, bytes, Mapping, Tool)) or not isinstance(tools, Iterable):
        raise ToolError(f"tools must be a list of tools, got {tools!r:.80}; write [tool]")
    found: dict[str, Tool[Any, Any]] = {}
    refused: list[RefusedTool] = []
    for one in _each(tools, refused):
        try:
            _ = one.spec
            if one.name in found:
                raise ToolError(f"tool {one.name}: two tools have this name; give one of them another")
        except ToolError as error:
            if one.own:
                raise
            refused.append(RefusedTool(one.name, str(error)))
            log.warning("%s; it is left out", error)
        else:
            found[one.name] = one
    made = ToolList(found.values())
    made.refused = tuple(refused)
    return made


def _each(items: Iterable[Any], refused: list[RefusedTool]) -> Iterator[Tool[Any, Any]]:
    for item in items:
        if isinstance(item, (tuple, list)):  # an open MCP server too
            refused += getattr(item, "refused", ())
            yield from _each(item, refused)
        else:
            yield from _read(item, refused)


def _read(item: Any, refused: list[RefusedTool]) -> Iterator[Tool[Any, Any]]:
    """Give the tool that an item of a list stands for, or note why it is left out."""
    if isinstance(item, Tool):
        yield item
    elif isinstance(item, MethodType) and isinstance(item.__func__, Tool):  # `@classmethod` above `@sgl.tool`
        yield item.__func__.__get__(item.__self__)
    elif isinstance(item, ToolSpec):
        yield bare_tool(item)
    elif isinstance(item, Mapping):
        name, description, schema = read_raw(item)
        try:
            yield bare_tool(raw_spec(name, description, schema))
        except ToolError as error:
            refused.append(RefusedTool(name if isinstance(name, str) else shown(name), str(error)))
            log.warning("%s; it is left out", error)
    elif isinstance(item, type):
        yield _of_class(item)
    elif callable(item):
        yield tool(item)
    else:
        raise ToolError(
            f"{item!r:.80} is no tool; a tool is a function, a pydantic model, or a mapping with name, description and "
            "parameters. An MCP server is opened first: with sgl.mcp_tools(server) as tools"
        )


def raw_spec(name: object, description: object, schema: object) -> ToolSpec:
    """Make the spec of a tool that others describe. Raises `ToolError`."""
    where = f"tool {name:.120}" if isinstance(name, str) else f"tool {shown(name)}"  # it may be anything, of any length
    check_name(where, name)
    if not isinstance(description, str):
        raise ToolError(f"{where}: description must be a text, got {description!r:.60}")
    return ToolSpec(str(name), description, argument_schema(where, schema))


def bare_tool(spec: ToolSpec, function: Any = None, **rules: Any) -> Tool[Any, Any]:
    """Make a tool of a spec that is not the program's own. `function` gets JSON data, by name."""
    plain = PlainParameters(spec.parameters)
    return Tool(function, spec.name, spec.description, lambda is_method: plain, own=False, **rules)


def _of_class(item: type) -> Tool[Any, Any]:
    """Make a tool that gives an instance of a class."""
    where = f"tool {item.__name__}"
    if not (dataclasses.is_dataclass(item) or hasattr(item, "model_fields")):
        raise ToolError(f"{where}: it is a class, but no pydantic model and no dataclass; give a function")
    check_name(where, item.__name__)
    said = item.__doc__ or ""
    description = "" if dataclasses.is_dataclass(item) and said.startswith(f"{item.__name__}(") else said
    return Tool(_itself, item.__name__, inspect.cleandoc(description), lambda is_method: ModelParameters(item, where))


def _itself(instance: Any) -> Any:
    return instance
