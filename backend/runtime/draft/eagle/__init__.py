"""EAGLE-3 heads: a network of one layer that guesses a model's next tokens from the model's own hidden states.

config.py         the shape of a head, and whether it fits a model
head.py           the network
files.py          a head's folder, in bf16 or int8
packed_head.py    the network's products in 8 bits on the CPU
native_chain.py   a whole chain of a packed head as one call of the kernels
lean.py           what a packed head computes in numpy, where a chain does not fit the kernels
propose.py        a chain of drafts, and the head's KV of a branch
target.py         the model as a dense forward that gives features
writer.py         training data that the model writes itself
conversations.py  conversations in files, and packed into rows
initial.py        a head to begin training with
features.py       rows with what the model says of them
unroll.py         training-time test, and its loss
train.py          the training loop
evaluate.py       tokens a round
plot.py           the log as a picture
command.py        `sgl draft train`
"""
