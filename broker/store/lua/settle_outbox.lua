-- Ends attempts to send on: delivered ones go, the others wait, or are replaced by a record for another target.
-- KEYS   1 outbox  2 outgoing
-- ARGV   three values each: name, ms until the next attempt ('' = delivered), new record ('' = unchanged)
-- Reply  how many are delivered
redis.call('ZREM', KEYS[1], '') -- a first write that needs no memory
local delivered = 0
for at = 1, #ARGV, 3 do
  local name, delay, record = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if delay == '' then
    redis.call('HDEL', KEYS[2], name)
    delivered = delivered + redis.call('ZREM', KEYS[1], name)
  elseif redis.call('HEXISTS', KEYS[2], name) == 1 then
    if record ~= '' then redis.call('HSET', KEYS[2], name, record) end
    redis.call('ZADD', KEYS[1], 'XX', now + tonumber(delay), name)
  end
end
return delivered
