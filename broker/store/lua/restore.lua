-- Repair: gives messages that are in no set a place again. They may have been handed out before, so they count a receive.
-- KEYS   1 ready  2 waiting  3 bodies  4 facts  5 meta
-- ARGV   entries that a consistent snapshot found in no set
-- Reply  how many were restored
-- State  stranded -> waiting (due now)
redis.call('ZREM', KEYS[2], '')
local restored = 0
for _, entry in ipairs(ARGV) do
  local found = redis.call('XRANGE', KEYS[1], entry, entry)
  local in_hash = redis.call('HEXISTS', KEYS[3], entry) == 1
  if #found > 0 or in_hash then
    if not redis.call('HGET', KEYS[4], entry) then
      redis.call('HSET', KEYS[4], entry, write_facts(first_facts(now)))
    end
    if #found > 0 then redis.call('HSET', KEYS[3], entry, found[1][2][2]) end
    redis.call('ZADD', KEYS[2], 'NX', now, entry)
    if #found > 0 then redis.call('XDEL', KEYS[1], entry) end
    restored = restored + 1
  end
end
if restored > 0 then redis.call('HINCRBY', KEYS[5], 'restored', restored) end
return restored
