-- What a feed's log holds after an offset, in one look. KEYS meta, log. ARGV after.
-- Returns nothing where there is no log; otherwise epoch, base, floor id, top, entries.
local said = redis.call('HMGET', KEYS[1], 'epoch', 'base', 'floor', 'top')
if not said[1] then
  return false
end
local entries = redis.call('XRANGE', KEYS[2], (tonumber(ARGV[1]) + 1) .. '-0', '+')
return {said[1], said[2], said[3], said[4], entries}
