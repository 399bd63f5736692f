"""Support code of the tests: a byte-true faulty model server, and real processes under control."""
