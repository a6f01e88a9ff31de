"""The local runtime: a tree of KV, branches with watermarks, and steps that raise them."""
