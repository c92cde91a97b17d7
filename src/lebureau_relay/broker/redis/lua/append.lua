-- Append to a feed's log, or begin it anew, if the lease is still the caller's. KEYS lease, meta, log, fence.
-- ARGV token, epoch, after, floor id, begin ("1" or ""), max_events, max_bytes, max_age_ms, keep_ms, publish, channel,
-- then four an entry: offset, id, frame, gap cause or "".
-- Returns taken, fenced or moved.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'fenced'
end
local meta, log = KEYS[2], KEYS[3]
local bytes = 0
if ARGV[5] == '1' then
  redis.call('DEL', meta, log)
  redis.call('HSET', meta, 'epoch', ARGV[2], 'base', ARGV[3], 'floor', ARGV[4], 'top', ARGV[3])
else
  local said = redis.call('HMGET', meta, 'epoch', 'top', 'bytes')
  if said[1] ~= ARGV[2] or said[2] ~= ARGV[3] then
    return 'moved'
  end
  bytes = tonumber(said[3] or 0)
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local top = ARGV[3]
for i = 12, #ARGV, 4 do
  top = ARGV[i]
  redis.call('XADD', log, top .. '-0', 'i', ARGV[i + 1], 'f', ARGV[i + 2], 'g', ARGV[i + 3], 't', now)
  bytes = bytes + #ARGV[i + 2]
end
local events, max_events, max_bytes = redis.call('XLEN', log), tonumber(ARGV[6]), tonumber(ARGV[7])
local oldest_kept = now - tonumber(ARGV[8])
while events > 1 do
  local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if events <= max_events and bytes <= max_bytes and tonumber(oldest[2][8]) >= oldest_kept then
    break
  end
  redis.call('XDEL', log, oldest[1])
  events = events - 1
  bytes = bytes - #oldest[2][4]
end
redis.call('HSET', meta, 'top', top, 'bytes', bytes)
for _, key in ipairs({meta, log, KEYS[4]}) do
  redis.call('PEXPIRE', key, ARGV[9])
end
redis.call(ARGV[10], ARGV[11], ARGV[2] .. ':' .. top)
return 'taken'
