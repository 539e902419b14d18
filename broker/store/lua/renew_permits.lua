-- Moves the end of permits to so many milliseconds from now. One that ran out is not brought back.
-- KEYS   1 permits
-- ARGV   1 permit ms  2… names
-- Reply  indexes (1…) of the names that hold no permit any more
redis.call('ZREM', KEYS[1], '') -- a first write that needs no memory
local lost = {}
local until_ms = string.format('%.0f', now + tonumber(ARGV[1]))
for i = 2, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], 'XX', until_ms, ARGV[i])
  else
    lost[#lost + 1] = i - 1
  end
end
return lost
