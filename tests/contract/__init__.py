"""What users rely on, clause by clause and from outside: gateway.yaml, the command line, HTTP, streams."""
