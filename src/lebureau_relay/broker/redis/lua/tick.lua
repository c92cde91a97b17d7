-- Renew the leases that a replica holds, and look at those that it doesn't. Five KEYS a feed: lease, meta, log, fence,
-- wanted. ARGV replica, lease_ms, keep_ms, then two a feed: token or "", wanted ("1" or "").
-- Returns three a feed: kept, wanted, lost, free, or held: and by whom; the log's epoch; its top.
local answer = {}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 0, #KEYS / 5 - 1 do
  local lease, meta, log, fence, wanted = unpack(KEYS, i * 5 + 1, i * 5 + 5)
  local token, want = ARGV[4 + i * 2], ARGV[5 + i * 2]
  local held = redis.call('GET', lease)
  local state
  if token ~= '' and held == token then
    redis.call('PEXPIRE', lease, ARGV[2])
    for _, key in ipairs({meta, log, fence}) do
      redis.call('PEXPIRE', key, ARGV[3])
    end
    redis.call('ZREMRANGEBYSCORE', wanted, '-inf', now)
    state = redis.call('ZCARD', wanted) > 0 and 'wanted' or 'kept'
  elseif token ~= '' then
    state = 'lost'
  elseif held then
    if want == '1' then
      redis.call('ZADD', wanted, now + ARGV[2], ARGV[1])
      redis.call('PEXPIRE', wanted, ARGV[2])
    end
    state = 'held:' .. string.match(held, '^[^:]*')
  else
    state = 'free'
  end
  local said = redis.call('HMGET', meta, 'epoch', 'top')
  answer[#answer + 1] = state
  answer[#answer + 1] = said[1] or ''
  answer[#answer + 1] = said[2] or ''
end
return answer
