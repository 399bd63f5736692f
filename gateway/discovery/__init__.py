"""Finds the endpoints behind one backend's name: DNS addresses, or the EndpointSlices of a Kubernetes service."""
