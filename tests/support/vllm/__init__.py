"""Real vLLM on a machine without a GPU: installed once into a cache, with a tiny random model to serve."""
