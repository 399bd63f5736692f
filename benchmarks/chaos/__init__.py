"""Faults in backends under load, and what clients see of them: the gateway and its peers in the same scenarios."""
