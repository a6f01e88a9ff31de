"""Attention of a step's rows over runs of KV slots: a plan made on the host, carried out in every layer.

plan.py                  a step as a few dense pieces, for the CPU
torch_attention.py       that plan in plain torch, on any device
tree_plan.py             a step as equal items of work in one array, for a GPU
tree_runs.py             which runs the spans of a step share
tree_attention.py        that plan on a GPU: what is launched, and in which sizes
tree_kernels.py          its Triton kernels
flash_plan.py            a step laid out flat, as FlashInfer takes it
flashinfer_attention.py  that plan by FlashInfer's kernels
flashinfer_probe.py      whether FlashInfer works on this machine

None of it knows branches. A plan's keys are runs of slots, and runs that spans share are read once where that pays.
"""
