"""Side-by-side measurements of Seawall and its peers: `python -m benchmarks --help`."""
