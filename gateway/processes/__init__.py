"""Several worker processes that share the port, and the small parent that keeps them running.

The parent holds the listening sockets, so that no connection is lost with a worker, and the configuration's text, so
that all workers serve the same. Each worker talks to the parent alone; what one wants to know of the others (a scrape,
a status, a request's story) goes through it.
"""
