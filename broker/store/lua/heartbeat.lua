-- Says that a worker process is alive, for so long; forgets those that have been silent.
-- KEYS   1 live  2 info
-- ARGV   1 process  2 ms until it counts as gone ("0" = it is leaving)  3 what it serves, as JSON
-- Reply  processes found gone, without a word
redis.call('ZREM', KEYS[1], '') -- a first write that needs no memory
if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[2], ARGV[1]) -- before its name, without which nobody would look for it again
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
  if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3] then redis.call('HSET', KEYS[2], ARGV[1], ARGV[3]) end
end
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)
if #gone > 0 then
  redis.call('HDEL', KEYS[2], unpack(gone))
  redis.call('ZREM', KEYS[1], unpack(gone))
end
return gone
