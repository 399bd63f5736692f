"""What a client is told when a request fails: the taxonomy of errors and their renderings."""
