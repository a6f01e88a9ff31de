"""Models: from files to a step's logits.

load/     files, hub ids and GGUF to a checkpoint, and a checkpoint to a model on its device
llama/    the Llama family: in torch for the CPU, in Triton for a GPU
cpu/      the Llama family on a CPU with weights of 4 and 8 bits, by compiled kernels
foreign/  any other causal model, run by transformers with our attention
toy.py    a model whose logits are a hash of all that a row attends to, for tests

`step/packed.py` has the protocol that all of them implement.
"""
