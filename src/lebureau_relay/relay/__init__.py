"""The heart: feeds, their subscribers and the hub, over asyncio and nothing else.

Everything outside (upstream, Redis, metrics) is met through the Protocols in `ports`.
"""
