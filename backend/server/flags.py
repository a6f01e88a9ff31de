"""The flags of `sgl serve`: `Runtime`'s own options, read off its signature and docstring, and `ServeOptions`.

Knows nothing of servers or of HTTP.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from ...lang.errors import NotYet, OptionError, suggest


@dataclass(frozen=True)
class ServeOptions:
    """Options of the server itself.

    Args:
        host: Address to listen at. Default "127.0.0.1": this machine alone.
        port: Port to listen at; 0 takes a free one. Default 30000.
        api_key: Key that every request must send as `Authorization: Bearer KEY`, but for `/`, /health and /ready. Give
            it again for more keys. Default: none.
        api_key_file: File with more keys, one a line; lines that begin with # are left out. Default: none.
        max_requests_per_key: Requests that may be under way with one key; more get 429. Default: no bound of its own.
        allow_origin: Origin of web pages that may use this server (CORS), such as https://example.com; * for every
            one. Give it again for more. Default: none.
        served_model_name: Name of the model in requests and answers. Default: the model's.
        max_queued_requests: Requests that may wait, beside `max_running_requests` that run; more get 429. Default 1024.
        max_request_bytes: Largest body of a request, bytes. Default 33,554,432.
        request_timeout: Seconds after which a request fails. Default: none.
        drain_delay: Seconds after SIGTERM or Ctrl-C in which /ready is 503 and requests are still taken, so that a load
            balancer sends no more. Default 0.
        shutdown_timeout: Seconds that running requests have to finish after SIGTERM or Ctrl-C. Default 30.
        log_requests: Log a line for each request, without its contents. Default False.
        show_texts: Show the texts of all requests in the tree of KV at `/` and `/live`, not its shape alone. Default
            False.
    """

    host: str = "127.0.0.1"
    port: int = 30000
    api_key: str | tuple[str, ...] | None = None
    api_key_file: str | None = None
    max_requests_per_key: int | None = None
    allow_origin: str | tuple[str, ...] | None = None
    served_model_name: str | None = None
    max_queued_requests: int = 1024
    max_request_bytes: int = 32 << 20
    request_timeout: float | None = None
    drain_delay: int = 0
    shutdown_timeout: int = 30
    log_requests: bool = False
    show_texts: bool = False


class Flag(NamedTuple):
    """One flag: the option's name, its type (tuple: texts), its default, its help, and whether it is the server's."""

    name: str
    kind: type
    default: Any
    help: str
    of_server: bool


def flags() -> list[Flag]:
    """All flags, `Runtime`'s options first."""
    from ..runtime.runtime import Runtime

    told = _told(Runtime.__doc__)
    parameters = inspect.signature(Runtime.__init__).parameters.values()
    taken = [p for p in parameters if p.name != "self" and p.kind is not inspect.Parameter.VAR_KEYWORD]
    found = [Flag(p.name, _kind(str(p.annotation)), p.default, told[p.name], False) for p in taken]
    told = _told(ServeOptions.__doc__)
    return found + [Flag(f.name, _kind(str(f.type)), f.default, told[f.name], True) for f in fields(ServeOptions)]


def _kind(annotation: str) -> type:
    names = {part.strip() for part in annotation.split("|")}
    return next(
        (kind for kind in (bool, int, float) if kind.__name__ in names), tuple if "tuple" in annotation else str
    )


def _told(doc: str | None) -> dict[str, str]:
    """The meaning of each argument, by a docstring."""
    import docstring_parser

    parsed = docstring_parser.parse(doc or "")
    return {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags, and `--config`. None has a default, so that what was not said is known."""
    groups = {
        False: parser.add_argument_group("the runtime (options of sgl.Runtime)"),
        True: parser.add_argument_group("the server"),
    }
    for flag in flags():
        names = ["--" + flag.name.replace("_", "-")]
        more: dict[str, Any] = {"dest": flag.name, "default": None, "help": flag.help.replace("%", "%%")}
        if flag.kind is bool:
            more["action"] = "store_true"
        elif flag.kind is tuple:
            more |= {"action": "append", "metavar": "TEXT"}
        else:
            more |= {"type": flag.kind, "metavar": {int: "N", float: "X"}.get(flag.kind, "TEXT")}
        groups[flag.of_server].add_argument(*names, **more)
    groups[True].add_argument(
        "--config", metavar="FILE.yaml", help="YAML file with options by these names; flags come before it"
    )


def resolve(given: Mapping[str, Any], config: str | None = None) -> tuple[dict[str, Any], ServeOptions]:
    """The options of the runtime and of the server: flags over the file over defaults.

    Raises:
        OptionError: An option of the file is unknown or of another type, or a number of the server is out of range.
    """
    known = {flag.name: flag for flag in flags()}
    said = _read_config(config, known) if config is not None else {}
    said |= {name: value for name, value in given.items() if name in known and value is not None}
    for name, value in said.items():
        if known[name].kind is str and isinstance(value, str) and value.lower() == "none":
            said[name] = None
        elif known[name].kind is tuple:
            said[name] = texts(value)
    server = ServeOptions(**{name: value for name, value in said.items() if known[name].of_server})
    _check(server)
    keys_of(server)
    return {name: value for name, value in said.items() if not known[name].of_server}, server


def _read_config(path: str, known: Mapping[str, Flag]) -> dict[str, Any]:
    try:
        import yaml  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise NotYet("--config needs PyYAML: pip install 'sgl[serve]'") from None
    try:
        data = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"--config {path}: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise OptionError(f"--config {path}: it must have options by name, such as `port: 30000`")
    found = {}
    for key, value in data.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise OptionError(f"--config {path}: unknown option {key!r}{suggest(name, known)}")
        kind = known[name].kind
        fits = isinstance(value, {float: (int, float), tuple: (str, list)}.get(kind, kind))
        fits = fits and (not isinstance(value, list) or all(isinstance(each, str) for each in value))
        fits = fits and isinstance(value, bool) == (kind is bool)  # True is an int
        if value is not None and not fits:
            raise OptionError(f"--config {path}: {key} must be of type {_called(kind)}, got {value!r:.60}")
        if value is not None:
            found[name] = value
    return found


def _called(kind: type) -> str:
    return "str, or a list of them" if kind is tuple else kind.__name__


_LEAST: dict[str, float] = {
    "port": 0, "max_queued_requests": 0, "max_request_bytes": 1, "shutdown_timeout": 0, "drain_delay": 0,
    "max_requests_per_key": 1,
}  # fmt: skip


def _check(options: ServeOptions) -> None:
    for name, least in _LEAST.items():
        if (value := getattr(options, name)) is not None and value < least:
            raise OptionError(f"--{name.replace('_', '-')} must be at least {least:g}, got {value}")
    if options.port > 65535:
        raise OptionError(f"--port must be at most 65535, got {options.port}")
    if options.request_timeout is not None and not 0 < options.request_timeout <= 1e9:
        raise OptionError(f"--request-timeout must be more than 0 seconds, got {options.request_timeout}")
    for origin in texts(options.allow_origin):
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#]+", origin):
            raise OptionError(
                f"--allow-origin must be * or like https://example.com, with no path, got {origin!r:.120}"
            )


def texts(value: str | Iterable[str] | None) -> tuple[str, ...]:
    """The texts of an option that may have one or more."""
    return (value,) if isinstance(value, str) else tuple(value or ())


def keys_of(options: ServeOptions) -> tuple[str, ...]:
    """All keys, each once. Raises `OptionError` if the file cannot be read, or a key cannot stand in a header."""
    keys = list(texts(options.api_key))
    if options.api_key_file is not None:
        try:
            lines = Path(options.api_key_file).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"--api-key-file {options.api_key_file}: {error}") from None
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise OptionError(f"--api-key-file {options.api_key_file} has no key; write one a line")
        keys += found
    for i, key in enumerate(keys):
        if not re.fullmatch(r"[!-~]+", key):  # the key itself is not told
            raise OptionError(
                f"key {i} of --api-key and --api-key-file must be visible ASCII characters without spaces"
            )
    if options.max_requests_per_key is not None and not keys:
        raise OptionError("--max-requests-per-key needs keys; give --api-key or --api-key-file")
    return tuple(dict.fromkeys(keys))
