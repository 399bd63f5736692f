"""Writes a first gateway.yaml: from servers that run, or from another gateway's configuration."""
