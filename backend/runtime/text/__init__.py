"""Tokens and bytes: the tokenizer with its byte table, incremental detokenising, stop matching."""
