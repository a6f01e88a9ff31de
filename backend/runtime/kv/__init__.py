"""Where the KV of tokens is: slots, the tree of shared prefixes, and cursors in it. Knows no engine, no ops, no model.

pool.py     token slots, handed out as contiguous runs
tree.py     nodes: runs of tokens with their slots, matched, split, planted and evicted
cursor.py   a place in the tree with a private tail and a watermark
chain.py    side chains: tokens scored beside a path, for selects and the log-probabilities of prompts
draw.py     the tree as a picture in text
"""
