"""A server in this process, on a thread, for a model that is not served yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ....lang.errors import OptionError


@contextmanager
def served(runtime: Any) -> Iterator[str]:
    """Serve a runtime while the block runs; the server's URL. The runtime is shut down afterwards."""
    try:
        from ...server.command import listen, serve
        from ...server.flags import ServeOptions
    except ModuleNotFoundError as error:
        raise OptionError(f"a server in this process needs sgl[serve] ({error.name} is missing)") from None

    listener = listen("127.0.0.1", 0)
    servers: list[Any] = []
    arguments = (runtime, ServeOptions(port=0), listener, servers.append, False)
    thread = threading.Thread(target=serve, args=arguments, name="sgl-bench-server")
    thread.start()
    try:
        while not (servers and servers[0].started):
            thread.join(0.01)
            if not thread.is_alive():
                raise OptionError("the server did not start; its log says why")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        if servers:
            servers[0].should_exit = True
        thread.join(60)
        listener.close()
        runtime.shutdown()
