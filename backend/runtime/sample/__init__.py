"""From logits to a token: penalties, filters, masks, and noise keyed by position. Knows nothing of branches.

sampler.py      the definition, in numpy
host.py         the answers of `sampler.py` on the host, by compiled code where it was built
noise.py        randomness as a pure function of seed, position and token
mass.py         probabilities in whole units, whose sums are exact
ask.py          the log-probabilities that may be asked of a row
device.py       the answers of `sampler.py`, computed where the logits lie on a device
packing.py      asks as the 32-bit words a device reads
kernels.py      Triton kernels that sample
row_kernels.py  Triton kernels before and after sampling: penalties, log-probabilities, the most probable tokens
"""
