"""Attention of a step's rows over runs of KV slots: a plan made on the host, carried out in every layer.

plan.py                  the plan for a CPU: a step as a few dense pieces
torch_attention.py       attention over a CPU's plan in plain torch, on any device
tree_plan.py             the plan for a GPU: a step as equal items of work in one array
tree_runs.py             which runs the spans of a step share
tree_attention.py        attention over a GPU's plan: what is launched, and in which sizes
tree_kernels.py          the Triton kernels of `tree_attention.py`
flash_plan.py            the plan for FlashInfer: a step laid out flat
flashinfer_attention.py  attention over FlashInfer's plan, by FlashInfer's kernels
flashinfer_probe.py      whether FlashInfer works on this machine

Knows nothing of branches. A plan's keys are runs of slots, and runs that spans share are read once where that pays.
"""
