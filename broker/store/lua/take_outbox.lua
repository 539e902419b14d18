-- Takes what is to be sent on, for one relay at a time: its next attempt is put off, so that a relay that dies loses nothing.
-- KEYS   1 outbox  2 outgoing
-- ARGV   1 how many  2 ms until others may try  3 bytes
-- Reply  {name, record, …}
redis.call('ZREM', KEYS[1], '') -- a first write that needs no memory
local names = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))
local out, bytes = {}, 0
for _, name in ipairs(names) do
  local record = redis.call('HGET', KEYS[2], name)
  redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[2]), name)
  if record then
    out[#out + 1], out[#out + 2] = name, record
    bytes = bytes + #record
    if bytes >= tonumber(ARGV[3]) then break end
  else
    redis.call('ZREM', KEYS[1], name)
  end
end
return out
