"""The image worker: an OpenAI-compatible image server over a `diffusers` pipeline, with a small model of its own."""
