"""Loading: from what a user names to a model on its device. Knows nothing of steps.

build.py           device, dtype and checkpoint to a model, a tokenizer and a chat template
placed.py          a checkpoint as a model of torch on its device
loader.py          a file, a folder, a hub id or nothing to a checkpoint
checkpoint.py      what every loader returns
config.py          the shape of a model of the family, from config.json or GGUF metadata
fields.py          the fields of a checkpoint's files, with their types and ranges; JSON files
shapes.py          the names and shapes of the family's tensors
weights.py         how a model takes tensors out of a checkpoint
shards.py          safetensors files as a mapping of tensors
fetch.py           tensors from files to a GPU at the speed of the disk
gguf_file.py       a GGUF file's metadata and tensors
gguf_tokenizer.py  a GGUF file's tokenizer
converted.py       GGUF files: their tokenizers, and float weights where they are used, made once, in a cache
dummy.py           random weights and a byte tokenizer
store.py           the cache folder, and the embedded default model
"""
