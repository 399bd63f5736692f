"""The operators' page: what the gateway knows of itself, live, and what operators may do to it."""
