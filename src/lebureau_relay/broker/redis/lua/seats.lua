-- State which seats a replica has: the truth, as far as it goes, whatever was lost before. KEYS seats, retired of each
-- identity. ARGV lease_ms, then for each identity: how many are held, how many were given back, their names in that order.
-- Returns the names of those that are held but have been retired meanwhile.
local time = redis.call('TIME')
local until_ms = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
local found = {}
local at = 2
for i = 1, #KEYS, 2 do
  local seats, retired = KEYS[i], KEYS[i + 1]
  local held, gone = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local marked = redis.call('ZCARD', retired) > 0
  for j = at + 2, at + 1 + held do
    if marked and redis.call('ZSCORE', retired, ARGV[j]) then
      found[#found + 1] = ARGV[j]
    else
      redis.call('ZADD', seats, until_ms, ARGV[j])
    end
  end
  for j = at + 2 + held, at + 1 + held + gone do
    redis.call('ZREM', seats, ARGV[j])
    if marked then
      redis.call('ZREM', retired, ARGV[j])
    end
  end
  if held > 0 then
    redis.call('PEXPIRE', seats, ARGV[1])
  end
  at = at + 2 + held + gone
end
return found
