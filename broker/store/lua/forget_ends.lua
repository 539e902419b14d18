-- Throws ends away whose time is over, of a function in which nothing ends any more.
-- KEYS   1 meta  2, 3 ends, by turns  4 named
-- Reply  1: something was thrown away | 0
local m = redis.call('HMGET', KEYS[1], 'keep_ms', 'ended_turn')
local keep_ms = tonumber(m[1])
if not keep_ms then -- nothing is kept any more
  redis.call('HDEL', KEYS[1], 'ended_turn')
  return math.min(redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4]), 1)
end
local since, which = string.match(m[2] or '', '^(%d+) ([12])$')
if not since or tonumber(since) + keep_ms > now then return 0 end
if tonumber(since) + 2 * keep_ms <= now then redis.call('UNLINK', KEYS[1 + tonumber(which)]) end
which = which == '1' and 2 or 1
redis.call('UNLINK', KEYS[1 + which])
if redis.call('EXISTS', KEYS[2], KEYS[3]) == 0 then
  redis.call('HDEL', KEYS[1], 'ended_turn')
else
  redis.call('HSET', KEYS[1], 'ended_turn', string.format('%.0f %d', now, which))
end
return 1
