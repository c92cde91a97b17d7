"""The brain: pure rules of events, history, continuity and limits.

No asyncio, sockets, clock, logging or third party here; time and randomness are arguments. What is
decided in this package can be tested byte by byte without waiting for anything.
"""
