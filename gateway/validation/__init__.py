"""Checks of request bodies before anything is spent on them.

`body.parse_body` turns a body into `facts.Facts` or raises `errors.InvalidRequest`; `facts.check_limits` applies a
policy's limits once the route is known. `schemas` is the one description of what the endpoints accept.
"""
