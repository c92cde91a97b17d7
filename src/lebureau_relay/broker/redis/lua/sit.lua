-- Take a seat for one stream more of an identity, if its budgets allow it. KEYS seats, retired, connects.
-- ARGV seat, lease_ms, streams_per_user, retire ("1" or ""), connects_per_minute, then seats that were given back.
-- Returns full; often and for how many ms the budget is not whole; or seated and the seat of the oldest where it must go.
-- Names of seats sort by age. A retired one leaves the count now; whoever has its stream finds the name under retired.
local seats, retired, connects = unpack(KEYS)
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)
for i = 6, #ARGV do
  redis.call('ZREM', seats, ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', seats, '-inf', now)
local most = tonumber(ARGV[3])
local full = most > 0 and redis.call('ZCARD', seats) >= most
if full and ARGV[4] == '' then
  return {'full', ''}
end
local per_minute = tonumber(ARGV[5])
if per_minute > 0 then
  local cost = 60000000 / per_minute
  local debt = math.max(tonumber(redis.call('GET', connects) or 0) - now_us, 0)
  if debt + cost > 60000001 then
    return {'often', string.format('%.3f', debt / 1000)}
  end
  redis.call('SET', connects, string.format('%.0f', now_us + debt + cost), 'PX', math.ceil((debt + cost) / 1000))
end
local oldest = ''
if full then
  for _, seat in ipairs(redis.call('ZRANGE', seats, 0, -1)) do
    if oldest == '' or seat < oldest then
      oldest = seat
    end
  end
  redis.call('ZREM', seats, oldest)
  redis.call('ZREMRANGEBYSCORE', retired, '-inf', now)
  redis.call('ZADD', retired, now + ARGV[2], oldest)
  redis.call('PEXPIRE', retired, ARGV[2])
end
redis.call('ZADD', seats, now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', seats, ARGV[2])
return {'seated', oldest}
