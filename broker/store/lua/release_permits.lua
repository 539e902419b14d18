-- Gives permits back and wakes whoever went without.
-- KEYS   1 permits  2 meta
-- ARGV   1 wake channel  2… names (at most 1,000)
-- Reply  how many were still held
local released = redis.call('ZREM', KEYS[1], unpack(ARGV, 2))
if redis.call('HGET', KEYS[2], 'starved') == '1' then
  redis.call('PUBLISH', ARGV[1], 'permit')
  redis.call('HSET', KEYS[2], 'starved', '0')
end
return released
