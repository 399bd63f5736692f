"""The HTTP/1.1 server of the proxied path: C parser, one protocol object per client connection."""
