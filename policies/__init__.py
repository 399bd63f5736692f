"""Pure decisions: no I/O, no clock, no randomness of their own (both are passed in), no globals."""
