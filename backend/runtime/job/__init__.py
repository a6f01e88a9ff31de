"""One op at work: what it wants of steps, and what it makes of the answers. Knows nothing of how steps are planned.

job.py               the base of all jobs, and the one without logits (computing KV ahead of need)
gen.py               sampled tokens become text; stops, limits, log-probabilities, n samples
constrained_gen.py   a gen under a constraint: forced tokens, ends, the check of the finished text
rule.py              the place of a constrained gen in its grammar: mask, forced tokens, the way to close
select.py            a trie of choices scored in one step; the winner's KV stays
told.py              the trace of one call, token by token
"""
