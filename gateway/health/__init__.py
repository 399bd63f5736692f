"""Whether the gateway and its backends can do their work: checks, resources, active probing."""
