-- Takes permits to run: one a running call of a function, or of a mapping.
-- KEYS   1 permits  2 meta
-- ARGV   1 limit ('' = the function's own)  2 permit ms  3 whose mapping it is ('' = the function's own)  4… names
-- Reply  {how many of the names, in their order, hold a permit, next expiry ms or -1}: -1 there is no limit,
--        -2 unknown function, -3 paused
local m = redis.call('HMGET', KEYS[2], 'kind', 'limit', 'paused', 'held')
if not m[1] then return { -2, '-1' } end
if m[3] == '1' or m[4] == '1' then return { -3, '-1' } end
local limit = tonumber(ARGV[1]) or tonumber(m[2] or -1)
if limit < 0 then return { -1, '-1' } end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local free = limit - redis.call('ZCARD', KEYS[1])
local granted = 0
local until_ms = string.format('%.0f', now + tonumber(ARGV[2]))
for i = 4, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then -- asked again after a lost reply
    granted = granted + 1
  elseif free > 0 then
    redis.call('ZADD', KEYS[1], until_ms, ARGV[i])
    granted, free = granted + 1, free - 1
  else
    break
  end
end
local next_expiry = '-1'
if granted < #ARGV - 3 then
  local starved = '1'
  if ARGV[3] ~= '' then -- of a queue: the names of those of its mappings that went without
    starved = redis.call('HGET', KEYS[2], 'starved') or '0'
    if #starved == 1 then starved = ' ' end
    if not string.find(starved, ' ' .. ARGV[3] .. ' ', 1, true) then starved = starved .. ARGV[3] .. ' ' end
  end
  redis.call('HSET', KEYS[2], 'starved', starved)
  next_expiry = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or '-1'
end
return { granted, next_expiry }
