"""The terminals that llguidance's Lark can import, as regular expressions. Knows nothing of grammars."""

_INT = "[0-9]+"
_EXPONENT = r"[eE][+-]?[0-9]+"
_FRACTION = r"([0-9]+\.[0-9]*|\.[0-9]+)"
_FLOAT = rf"{_FRACTION}({_EXPONENT})?|{_INT}{_EXPONENT}"

COMMON = {
    "common.DIGIT": "[0-9]",
    "common.HEXDIGIT": "[0-9A-Fa-f]",
    "common.INT": _INT,
    "common.SIGNED_INT": rf"[+-]?{_INT}",
    "common.DECIMAL": _FRACTION,
    "common._EXP": _EXPONENT,
    "common.FLOAT": _FLOAT,
    "common.SIGNED_FLOAT": rf"[+-]?({_FLOAT})",
    "common.NUMBER": rf"{_INT}|{_FLOAT}",
    "common.SIGNED_NUMBER": rf"[+-]?({_INT}|{_FLOAT})",
    "common.ESCAPED_STRING": r'"([^"\\]|\\.)*"',
    "common.LCASE_LETTER": "[a-z]",
    "common.UCASE_LETTER": "[A-Z]",
    "common.LETTER": "[A-Za-z]",
    "common.WORD": "[A-Za-z]+",
    "common.CNAME": "[A-Z_a-z][0-9A-Z_a-z]*",
    "common.WS_INLINE": r"[\t ]+",
    "common.WS": r"[\t\n\f\r ]+",
    "common.CR": r"\r",
    "common.LF": r"\n",
    "common.NEWLINE": r"(\r?\n)+",
    "common.SH_COMMENT": r"#[^\n]*",
    "common.CPP_COMMENT": r"//[^\n]*",
    "common.C_COMMENT": r"/\*[^*]*\*+([^*/][^*]*\*+)*/",
    "common.SQL_COMMENT": r"--[^\n]*",
}
