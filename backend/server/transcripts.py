"""Messages as they were generated, so that a conversation that comes back goes on with the same tokens.

A client sends a conversation back as text, with calls in a form of their own, and text has more than one spelling in
tokens. So the tokens of each message that was generated are kept, by what the conversation said up to it. When it comes
back and the chat template prints it as it was, they are the prompt's beginning, and their KV is there.

Knows nothing of HTTP, nor of any API's fields.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ...lang.tools.spec import ToolCall
from .turns import Pieces

MOST_BYTES = 64 << 20
"""What is kept of all conversations together."""


@dataclass(frozen=True)
class Said:
    """One message, as a client sent it.

    `role`: system, user, assistant or tool. `calls`: an assistant's. `answers`: the id of the call whose result a
    tool's message is. `at`: where it stands in the body, and `id_at` where that id stands, for errors.
    """

    role: str
    text: str
    at: str
    calls: tuple[ToolCall, ...] = ()
    answers: Any = None
    id_at: str = "tool_call_id"


@dataclass(frozen=True)
class WrittenMessage:
    """A message that was generated: the prompt before it (`head` in tokens, then `prompt`), its text and its tokens."""

    head: tuple[int, ...]
    prompt: Pieces
    text: str
    token_ids: tuple[int, ...]
    whole: bytes
    """Digest of the prompt's text and the message's."""
    length: int
    """Characters of that text."""

    @property
    def bytes(self) -> int:
        """About what this one holds."""
        return 500 + 8 * (len(self.head) + len(self.token_ids)) + 2 * self.length


class Transcripts:
    """The last messages that were generated, by what was said up to them. Any thread may use it."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self.bytes = most_bytes, 0
        self._kept: OrderedDict[bytes, WrittenMessage] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> WrittenMessage | None:
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: bytes, written: WrittenMessage) -> None:
        with self._lock:
            if (before := self._kept.pop(key, None)) is not None:
                self.bytes -= before.bytes
            self._kept[key] = written
            self.bytes += written.bytes
            while self.bytes > self._most and self._kept:
                self.bytes -= self._kept.popitem(last=False)[1].bytes

    def forget(self) -> None:
        with self._lock:
            self._kept.clear()
            self.bytes = 0


class ConversationKeys:
    """Digests of a conversation up to each of its messages. `options`: what else the template prints."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._hash = blake2b(_data(dict(options)), digest_size=20)

    def add(self, said: Said) -> bytes:
        """Go on with a message; the digest up to it. Ids of calls are no part: some APIs have none."""
        calls = [(call.name, call.arguments) for call in said.calls]
        self._hash.update(_data([said.role, said.text, calls]))
        return self._hash.digest()

    def each(self, said: Sequence[Said]) -> Iterator[bytes]:
        return (self.add(message) for message in said)

    def after(self, said: Said) -> bytes:
        """The digest that `add` would give, without going on."""
        copy = ConversationKeys.__new__(ConversationKeys)
        copy._hash = self._hash.copy()
        return copy.add(said)


def _data(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, default=str).encode()


def digest(text: str) -> bytes:
    """The digest of a text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()
