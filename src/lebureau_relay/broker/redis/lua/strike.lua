-- An address's budget for bad credentials (GCRA, as core/limiter.py). KEYS strikes. ARGV per_minute, spend ("1" or "").
-- Returns for how many ms the budget was not whole before. A debt never grows past the whole budget.
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local debt = math.max(tonumber(redis.call('GET', KEYS[1]) or 0) - now_us, 0)
if ARGV[2] == '1' then
  local owed = math.min(debt + 60000000 / ARGV[1], 60000000)
  redis.call('SET', KEYS[1], string.format('%.0f', now_us + owed), 'PX', math.ceil(owed / 1000))
end
return string.format('%.3f', debt / 1000)
