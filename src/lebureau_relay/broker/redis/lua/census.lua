-- State that a replica is there, and hear of the others. KEYS roll. ARGV lease_ms, what it says of itself, what it said before.
-- Returns what each says that has said something within its lease.
local roll = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREM', roll, ARGV[3])
redis.call('ZREMRANGEBYSCORE', roll, '-inf', now)
redis.call('ZADD', roll, now + ARGV[1], ARGV[2])
redis.call('PEXPIRE', roll, ARGV[1])
return redis.call('ZRANGE', roll, 0, -1)
