-- The deployment's budget of upstream 401s: state what a replica knows of it, then take places. KEYS failures, places.
-- ARGV limit, window_ms, lapse_ms, how many failures, how many places held, how many given back; then age_ms and name of each
-- failure, left_ms and name of each place held, names of those given back, names of the places that are wanted.
-- Returns how many of these were taken, and for how many ms the budget is spent, 0 if it isn't.
local failures, places = unpack(KEYS)
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local at = 7
for _ = 1, ARGV[4] do
  redis.call('ZADD', failures, 'NX', now - ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, ARGV[5] do
  redis.call('ZADD', places, 'NX', now + ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, ARGV[6] do
  redis.call('ZREM', places, ARGV[at])
  at = at + 1
end
redis.call('ZREMRANGEBYSCORE', failures, '-inf', now - window)
redis.call('ZREMRANGEBYSCORE', places, '-inf', now)
redis.call('PEXPIRE', failures, window)
local taken, spent = 0, 0
local left = limit - redis.call('ZCARD', failures)
if left <= 0 then
  -- It has something left again when the oldest of as many as are allowed is a minute old.
  spent = redis.call('ZRANGE', failures, -limit, -limit, 'WITHSCORES')[2] + window - now
else
  for i = at, math.min(#ARGV, at + left - redis.call('ZCARD', places) - 1) do
    redis.call('ZADD', places, now + ARGV[3], ARGV[i])
    taken = taken + 1
  end
end
redis.call('PEXPIRE', places, ARGV[3])
return {taken, spent}
