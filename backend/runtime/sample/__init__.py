"""From logits to a token: penalties, filters, masks, and noise keyed by position.

sampler.py      the definition, in numpy on the host
noise.py        randomness as a pure function of seed, position and token
ask.py          the log-probabilities that may be asked of a row
device.py       the same answers where the logits lie on a device
packing.py      asks as the 32-bit words a device reads
kernels.py      Triton kernels that sample
row_kernels.py  Triton kernels before and after: penalties, log-probabilities, the most probable tokens
"""
