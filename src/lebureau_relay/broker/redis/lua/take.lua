-- Take a feed's lease, or one's own anew. KEYS lease, fence, wanted.
-- ARGV replica, lease_ms, keep_ms, something random, wanted ("1" or "").
-- Returns the token, or nothing if another replica holds the lease. A token is never given out twice, whatever becomes of
-- the fence: an earlier term of the same replica is fenced like anybody else.
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, #ARGV[1] + 1) ~= ARGV[1] .. ':' then
  if ARGV[5] == '1' then
    local time = redis.call('TIME')
    redis.call('ZADD', KEYS[3], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], ARGV[1])
    redis.call('PEXPIRE', KEYS[3], ARGV[2])
  end
  return false
end
local token = ARGV[1] .. ':' .. redis.call('INCR', KEYS[2]) .. ':' .. ARGV[4]
redis.call('SET', KEYS[1], token, 'PX', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('ZREM', KEYS[3], ARGV[1])
return token
