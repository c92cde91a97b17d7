-- Give a feed's lease back. KEYS lease, wanted. ARGV token, replica, if_wanted ("1" or ""), publish, channel.
-- Returns 1 if it was given. Whoever listens hears of it.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[3] == '1' then
  local time = redis.call('TIME')
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('ZREM', KEYS[2], ARGV[2])
  if redis.call('ZCARD', KEYS[2]) == 0 then
    return 0
  end
end
redis.call('DEL', KEYS[1])
redis.call(ARGV[4], ARGV[5], 'free')
return 1
