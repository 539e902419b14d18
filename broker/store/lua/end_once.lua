-- Ends what was begun under a key: keeps its result, or frees the key.
-- KEYS   1 the key's record
-- ARGV   1 owner  2 ms that it is kept for ('' = freed)  3 result ('' = it was too large)  4 its size in bytes
-- Reply  1, or 0 where somebody else has begun, or ended it, since
local r = redis.call('HMGET', KEYS[1], 'state', 'owner')
if r[2] ~= ARGV[1] then return 0 end
if r[1] == 'done' then return 1 end -- told again after a lost reply
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
  return 1
end
local until_ms = string.format('%.0f', now + tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'state', 'done', 'until', until_ms, 'result', ARGV[3], 'size', ARGV[4])
redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[2] / 1000))
return 1
