"""The edge: the public listener, from the first byte of a request to a stream or a refusal.

The only rooms that know HTTP's server side. What is decided here is decided before response headers
leave; the heart of the relay never sees a request.
"""
