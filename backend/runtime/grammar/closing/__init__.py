"""How a constrained text gets to its end within a budget of tokens. Knows nothing of gens.

ways.py      the known way: what completes a text by its rules, as tokens that the matcher confirms
fewest.py    the text of the fewest tokens, by a search over the rules and the vocabulary; a bound for all texts
search.py    tokens that close a text, found by search, where a grammar is not known as rules
deepest.py   how many tokens a text may need at most to its end: a bound without any search
"""
