-- Gives permits back and wakes whoever went without.
-- KEYS   1 permits  2 meta
-- ARGV   1 wake channel  2 whose mapping it is ('' = the function's own)  3… names (at most 1,000)
-- Reply  how many were still held
local released = redis.call('ZREM', KEYS[1], unpack(ARGV, 3))
local starved = redis.call('HGET', KEYS[2], 'starved') or '0'
local name = ARGV[2] == '' and '1' or ' ' .. ARGV[2] .. ' '
local from, to = string.find(starved, name, 1, true)
if from then
  redis.call('PUBLISH', ARGV[1], 'permit')
  redis.call('HSET', KEYS[2], 'starved', ARGV[2] == '' and '0' or string.sub(starved, 1, from) .. string.sub(starved, to + 1))
end
return released
