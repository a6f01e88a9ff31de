"""The rules of a Lark grammar as trees of what is written, in llguidance's dialect.

Knows nothing of what a rule matches: a tree is the same in a rule and in a terminal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .....lang.pattern import Chars, PatternError, PatternNode, literal
from .....lang.pattern.nodes import EMPTY, no_deeper
from .....lang.pattern.rust_syntax import RustReader
from .lark_common import COMMON
from .lark_tokens import LarkToken, unquoted

MOST_NESTED = 150
Tree = tuple[Any, ...]
"""What is read, before it is known whether it is of a rule or of a terminal: kind, then children."""


class UnreadLark(Exception):
    """A place that this reader does not know; llguidance may."""


@dataclass
class LarkDefinition:
    """The right side of a rule or a terminal."""

    tree: Tree
    attributes: dict[str, Tree | None] = field(default_factory=dict)


class LarkSyntax:
    """A recursive-descent reader of tokens.

    `defined`: what was read, by name. `imported`: names of terminals with their paths. `ignored`: what may stand
    between lexemes. `exact`: whether nothing was skipped that makes the grammar narrower.
    """

    def __init__(self, source: str, tokens: list[LarkToken]) -> None:
        self.source, self.tokens = source, tokens
        self.at = 0
        self.exact = True
        self.depth = 0
        self.defined: dict[str, LarkDefinition] = {}
        self.imported: dict[str, str] = {}
        self.ignored: list[Tree] = []

    def read(self) -> None:
        """Read all items. Raises `UnreadLark`."""
        while self.at < len(self.tokens):
            if not self.take("\n"):
                self._item()

    def peek(self) -> LarkToken | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self, text: str) -> LarkToken | None:
        """Skip the token with this text, or of this kind, if it stands here."""
        token = self.peek()
        if token is None or (token.text != text and token.kind != text and (text != "\n" or token.kind != "newline")):
            return None
        self.at += 1
        return token

    def need(self, text: str) -> LarkToken:
        if (token := self.take(text)) is None:
            found = self.peek()
            raise UnreadLark(f"expected {text}, found {'the end' if found is None else repr(found.text)}")
        return token

    def _item(self) -> None:
        if self.take("%ignore"):
            self.ignored.append(self._choices())
        elif self.take("%import"):
            self._import()
        elif self.take("%llguidance"):
            pass
        elif name := self.take("name"):
            self._definition(name)
        else:
            token = self.peek()
            raise UnreadLark(f"unexpected {token.text!r}" if token else "the end")

    def _definition(self, name: LarkToken) -> None:
        own = name.text.lstrip("!?")
        self._parameter()
        attributes: dict[str, Tree | None] = {}
        if self.take("["):
            while not self.take("]"):
                key = self.need("name")
                attributes[key.text] = self._atom() if self.take("=") else None
                if not self.take(","):
                    self.need("]")
                    break
        self.need(":")
        self._define(own, LarkDefinition(self._choices(), attributes))

    def _import(self) -> None:
        path = self.need("name").text
        while self.take("."):
            path += "." + self.need("name").text
        found = {path.rsplit(".", 1)[-1]: path}
        if self.take("->"):
            found = {self.need("name").text: path}
        elif self.take("("):
            found = {}
            while not self.take(")"):
                name = self.need("name").text
                found[name] = f"{path}.{name}"
                self.take(",")
        for name, path in found.items():
            if path not in COMMON:
                raise UnreadLark(f"{path} is not known")
            self.imported[name] = path
            self._define(name, LarkDefinition(("none",)))

    def _define(self, name: str, definition: LarkDefinition) -> None:
        if name in self.defined:
            raise UnreadLark(f"{name} is defined twice")  # llguidance says what that means: it refuses it
        self.defined[name] = definition

    def _choices(self) -> Tree:
        self.depth += 1
        if self.depth > MOST_NESTED:
            raise UnreadLark(f"it is nested more than {MOST_NESTED} deep")
        found = [self._alternative()]
        while True:
            before = self.at
            while self.take("\n"):
                pass
            if not self.take("|"):
                self.at = before
                break
            found.append(self._alternative())
        self.depth -= 1
        return ("either", *found)

    def _alternative(self) -> Tree:
        parts: list[Tree] = []
        joined: list[Tree] = []
        while (token := self.peek()) is not None:
            if token.kind == "newline" or token.text in ("|", ")", "]", "}"):
                break
            if self.take("->"):
                self.need("name")
            elif self.take("%if"):
                self._call()
                self.exact = False
            elif self.take("&"):
                joined.append(("sequence", *parts))
                parts = []
            else:
                parts.append(self._counted())
        last: Tree = ("sequence", *parts)
        return ("both", *joined, last) if joined else last

    def _counted(self) -> Tree:
        if self.take("~"):
            atom: Tree = ("not", self._atom())
        else:
            atom = self._atom()
        for mark, low, high in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self.take(mark):
                return ("repeat", atom, low, high)
        if self.take("~"):
            low = int(self.need("number").text)
            return ("repeat", atom, low, int(self.need("number").text) if self.take("..") else low)
        if self.take("{"):
            first = self.take("number")
            low = int(first.text) if first else 0
            last = self.take("number") if (open_end := self.take(",")) else first
            self.need("}")
            return ("repeat", atom, low, int(last.text) if last else None if open_end else low)
        return atom

    def _atom(self) -> Tree:
        if self.take("("):
            inner = self._choices()
            self.need(")")
            return inner
        if self.take("["):
            inner = self._choices()
            self.need("]")
            return ("repeat", inner, 0, 1)
        token = self.peek()
        if token is None:
            raise UnreadLark("the end")
        self.at += 1
        if token.kind == "string":
            return self._string(token)
        if token.kind == "regex":
            return ("lexeme", _regex(token.text))
        if token.text == "%json":
            return ("json",)
        if token.text == "%regex":
            return ("substring", token.data)
        if token.kind == "name":
            self._parameter()
            return ("name", token.text.lstrip("!?"))
        raise UnreadLark(f"unexpected {token.text!r}")

    def _string(self, token: LarkToken) -> Tree:
        text = unquoted(token.text)
        other = self.take("..")
        last = unquoted(self.need("string").text) if other else ""
        if text is None or last is None or (other and (len(text), len(last)) != (1, 1)):
            raise UnreadLark(f"the text {token.text}")
        if other:
            return ("lexeme", Chars(((ord(text), ord(last)),)) if text <= last else EMPTY)
        if token.text.endswith("i"):
            return ("lexeme", _regex("/" + "".join(f"\\x{{{ord(c):x}}}" for c in text) + "/i") if text else EMPTY)
        return ("lexeme", literal(text)) if text else ("sequence",)

    def _parameter(self) -> None:
        """Skip the parameter of a rule (`name::set_bit(0)`)."""
        if self.take("::"):
            self.exact = False
            self._call()

    def _call(self) -> None:
        if not (self.take("name") or self.take("number") or self.take("_") or self.take("[")):
            raise UnreadLark("a parameter")
        depth = int(self.tokens[self.at - 1].text == "[")
        while depth or self.take("("):
            depth = depth or 1
            token = self.peek()
            if token is None:
                raise UnreadLark("a parameter without an end")
            self.at += 1
            depth += (token.text in "([") - (token.text in ")]")
            if not depth:
                return


@no_deeper
def _regex(text: str) -> PatternNode:
    end = text.rindex("/")
    flags = text[end + 1 :]
    try:
        return RustReader((f"(?{flags})" if flags else "") + text[1:end]).read()
    except PatternError as error:
        raise UnreadLark(f"the expression {text:.60}: {error}") from None
