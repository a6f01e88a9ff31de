"""Speculation: tokens that may follow are guessed, computed along with the last token, and kept where they are right.

A sample is keyed by position, so a guess is right exactly if it is the token that is sampled: the text does not change,
at any temperature. Nothing outside this folder knows where guesses come from. The rest of the runtime knows a *draft*:
tokens whose rows ride behind the last token's row (`kv/cursor.py`, `step/flight.py`).

speculation.py  who gets a draft in a step, and how long it is
proposer.py     what every source of drafts is asked
suffix.py       a tree of what followed the same text before, with counts
suffix_source.py  a source: the tree, and how far it has read each branch
grammar_source.py  a source: what a constraint forces, spelled as text is
head_source.py  a source: an EAGLE-3 head
model_source.py  a source: a smaller model that shares the target's slots
path_names.py   a number for each position of a text that names all tokens up to there
choose.py       what drafts, by the options of a runtime
build.py        a head, loaded and checked against its target
draft_model.py  a draft model, loaded and checked against its target
chances.py      how often guesses of one kind were right, for each gen of a program
cost.py         what one more row costs a step
trials.py       whether drafting pays at all, found by trying, with a bound on what trying costs
eagle/          EAGLE-3 heads: a small network that reads the model's hidden states, and how it is trained
"""
