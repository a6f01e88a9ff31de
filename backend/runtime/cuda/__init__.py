"""Steps on a device: their inputs, captured graphs, and the executor that runs ahead."""
