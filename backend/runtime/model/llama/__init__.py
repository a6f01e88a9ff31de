"""The Llama family (Llama, Mistral, Qwen2, Qwen3) over ragged steps.

llama.py           the family in plain torch, for the CPU
fused.py           the family on a GPU, in few launches a layer
linear.py          a matrix product on the CPU, with its weight packed
rope.py            tables of rotary position embedding and its scalings
kernels.py         small Triton kernels: embedding, norm, RoPE with the KV write, SiLU, rows
matmul.py          a product with its norm, SiLU and residual, by the kernel that a table chose
matmul_kernels.py  Triton kernels of products with few rows
tuned.py           the table: which kernel computes which product
tuned_h200.json    the table of an H200, as shipped
tune.py            measuring what the table does not know yet
"""
