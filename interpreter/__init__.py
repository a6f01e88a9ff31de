"""How a program runs: `@function`, program state, run, batch, async, stream, fork and join.

Drives any backend through the protocol in `backend/base.py`; knows nothing of KV, models or tokens.
"""
