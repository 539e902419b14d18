-- Moves the end of leases, and of the permits of the same names, to so many milliseconds from now.
-- KEYS   1 leases  2 permits  3 meta (with it, a lease that now ends earlier wakes whoever waits)  4 wake channel
-- ARGV   1 lease ms  2… members (at most 1,000)
-- Reply  indexes (1…) of the members whose lease is gone
-- State  leased -> leased
if #ARGV < 2 then return {} end
redis.call('ZREM', KEYS[1], '') -- a first write that needs no memory
local lease_end = string.format('%.0f', now + tonumber(ARGV[1]))
local scores = redis.call('ZMSCORE', KEYS[1], unpack(ARGV, 2))
local permits = redis.call('EXISTS', KEYS[2]) == 1
local lost, earlier = {}, false
for i = 1, #ARGV - 1 do
  if scores[i] then
    redis.call('ZADD', KEYS[1], 'XX', lease_end, ARGV[i + 1])
    earlier = earlier or tonumber(scores[i]) > tonumber(lease_end)
  else
    lost[#lost + 1] = i
  end
  if permits then redis.call('ZADD', KEYS[2], 'XX', lease_end, ARGV[i + 1]) end
end
if earlier and KEYS[3] and redis.call('HGET', KEYS[3], 'asleep') == '1' then
  redis.call('PUBLISH', KEYS[4], '')
  redis.call('HSET', KEYS[3], 'asleep', '0')
end
return lost
