"""Causal models outside the Llama family: transformers runs their code, our attention runs in it.

load.py       reading a model, and what is refused before its weights are read
model.py      a step through a model that transformers runs
device.py     a step on a GPU, sampled there
probe.py      what attention a model computes, found by running it; the proof that ours is the same
attention.py  the attention of a model's layers in plain torch: windows, soft-caps
tree.py       the attention of a model's layers by our GPU kernels, where they can compute it
"""
