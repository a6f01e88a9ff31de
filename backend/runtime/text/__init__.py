"""Tokens and bytes: text on its way into the model and out of it. Knows nothing of branches.

tokenizer.py    text to tokens, jointly where pieces touch; tokens to bytes
pipeline.py     what a tokenizer of the `tokenizers` package does to text: its bytes, its dummy spaces, where to cut
control.py      control and added tokens, and text cut where it spells them
words.py        the tokens of recent words
detokenizer.py  bytes to text, whole UTF-8 characters at a time
stop.py         where a text ends: stop strings and stop regexes
"""
