-- Worker processes that have given a sign of life: also where none is left to forget the others.
-- KEYS   1 live  2 info, as in heartbeat.lua
-- ARGV
-- Reply  process, what it serves as JSON, process, …
local found = {}
for _, process in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  local serves = redis.call('HGET', KEYS[2], process)
  if serves then
    found[#found + 1] = process
    found[#found + 1] = serves
  end
end
return found
