"""Where text comes from: the protocol (`base.py`) and the local runtime (`runtime/`)."""
