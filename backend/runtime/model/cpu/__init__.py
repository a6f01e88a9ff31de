"""The Llama family on a CPU with weights of 4 and 8 bits, by compiled kernels.

choose.py           which weights a CPU computes with: what `quantization=` means
quantised_llama.py  the model: one call of the kernels a step
native.py           the compiled library: found, checked, its structures
packed.py           weights in blocks, packed for the kernels
packed_weights.py   a checkpoint's packed weights, kept in a cache
gguf_blocks.py      GGUF's formats as blocks
native/             the kernels, in C++, and sampling (`sample/host.py` calls it): `native.cpp` is a step, `levels.h`
                    has the levels of instructions (portable, AVX2, AVX-512, AMX, NEON), one `simd_*.h` each
"""
