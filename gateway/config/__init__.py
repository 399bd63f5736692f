"""gateway.yaml: its schema, loader, checks and documentation. Import from the submodules; this one stays empty."""
