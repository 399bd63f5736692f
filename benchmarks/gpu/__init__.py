"""The workers of text and images on a GPU: how fast, what the gateway takes of it, and what becomes of real OOM."""
