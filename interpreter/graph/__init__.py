"""A program without a model: its body runs dry, and what it says becomes a graph.

lower.py         `f.graph()`, `f.compile()`, `f.cache()`: start a dry run, judge its end, prepare a backend
dry_run.py       one dry run: its limit and end, and the backend and branches that have no model
dry_state.py     the program state of a dry run, which notes what the body says and reads
placeholder.py   a value that only a run has, as a string that stands for it
nodes.py         the nodes of a graph, and their wording
graph.py         `Graph`: to walk, print, draw and save
svg.py           the drawing of a graph
"""
