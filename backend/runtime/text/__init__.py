"""Tokens and bytes: a gen's text on its way in and out.

tokenizer.py    text to tokens, jointly where pieces touch; tokens to bytes
pipeline.py     what a tokenizer of the `tokenizers` package does to text: its bytes, its dummy spaces, where to cut
control.py      control and added tokens, and text cut at those it spells
words.py        the tokens of recent words
detokenizer.py  bytes to text, whole UTF-8 characters at a time
stop.py         where a text ends: stop strings and stop regexes
"""
