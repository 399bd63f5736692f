"""`seawall chaos`: breaks one backend on purpose, under a small load, and tells what clients saw of it."""
