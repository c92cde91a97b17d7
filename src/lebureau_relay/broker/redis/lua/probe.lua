-- Do once what the other scripts do, on keys of no feed, and say a word: whether this server takes writes, knows the
-- commands and allows them. KEYS lease, meta, log, fence, wanted. ARGV publish, channel, word.
local lease, meta, log, fence, wanted = unpack(KEYS)
redis.call('SET', lease, '', 'PX', 1000) -- first, for a full server refuses only the first write of a script
redis.call('GET', lease)
redis.call('DEL', meta, log, fence, wanted)
redis.call('INCR', fence)
redis.call('HSET', meta, 'top', '1')
redis.call('HMGET', meta, 'top')
redis.call('XADD', log, '1-0', 'f', '')
redis.call('XLEN', log)
redis.call('XRANGE', log, '-', '+', 'COUNT', 1)
redis.call('XDEL', log, '1-0')
local time = redis.call('TIME')
redis.call('ZADD', wanted, time[1], '')
redis.call('ZREMRANGEBYSCORE', wanted, '-inf', 0)
redis.call('ZRANGE', wanted, 0, 0)
redis.call('ZSCORE', wanted, '')
redis.call('ZREM', wanted, '')
redis.call('ZCARD', wanted)
redis.call('PEXPIRE', fence, 1000)
redis.call('DEL', lease, meta, log, fence)
redis.call(ARGV[1], ARGV[2], ARGV[3])
return 1
