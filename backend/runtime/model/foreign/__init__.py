"""Causal models outside the Llama family: transformers runs their code, our attention runs in it.

load.py       reading a model, and what is refused before its weights are read
model.py      a step through such a model
device.py     the same on a GPU, sampled there
probe.py      what attention a model computes, found by running it; the proof that ours is the same
attention.py  the attention of its layers in plain torch: windows, soft-caps
tree.py       the attention of its layers by our GPU kernels, where they can
"""
