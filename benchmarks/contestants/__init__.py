"""The contestants: one adapter each, all of one shape, which the measures know nothing else about.

A module has `make(endpoint, batch_size, queue_size)`. It returns a client in its usual asynchronous mode; what is None,
and everything else, is the default that the package documents. A client has

* `track(user, properties)`: one call of the package, with what its documentation would have a user write;
* `flush()`: returns when what was tracked is delivered; the client stays usable.

Nothing is imported here: the time that an adapter takes to import is what its package takes.
"""
