-- Take a feed's lease. KEYS lease, fence, wanted. ARGV replica, lease_ms, wanted ("1" or "").
-- Returns the token, or nothing if another replica holds it.
local held = redis.call('GET', KEYS[1])
if held then
  if string.sub(held, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return held
  end
  if ARGV[3] == '1' then
    local time = redis.call('TIME')
    redis.call('ZADD', KEYS[3], time[1] * 1000 + ARGV[2], ARGV[1])
    redis.call('PEXPIRE', KEYS[3], ARGV[2] * 2)
  end
  return false
end
local token = ARGV[1] .. ':' .. redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], token, 'PX', ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[1])
return token
