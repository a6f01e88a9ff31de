"""How a constrained text gets to its end within a budget of tokens. Knows nothing of gens.

search.py    tokens that close a text from where it is, found by search over any engine's matchers
deepest.py   how many tokens a text may need at most to its end: a bound without any search
"""
