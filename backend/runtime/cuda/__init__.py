"""Steps on a device: what they read, captured graphs, and the executor that runs ahead. Knows nothing of branches.

executor.py      steps computed and sampled on a device while the host prepares the next
device_model.py  what the executor asks of a model, and what a step's inputs are
fixed_step.py    one step of fixed sizes, captured as a CUDA graph and replayed
graphs.py        which sizes are captured, and which one a step is replayed with
staging.py       host arrays on their way to the device
"""
