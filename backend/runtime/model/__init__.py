"""Models: configuration, loading, the Llama family, and the hash-everything toy."""
