-- Throws all messages of a resource away, those in flight too; settings, ids in use and what is to be sent on stay.
-- KEYS   1 meta  2 ready  3 bodies  4… its other messages' keys
-- ARGV   1 ms that must have passed since it was done last ('' = none)
-- Reply  how many there were | -1: unknown | -2: too soon
local m = redis.call('HMGET', KEYS[1], 'kind', 'purged_ms')
if not m[1] then return -1 end
if ARGV[1] ~= '' and m[2] and now - tonumber(m[2]) < tonumber(ARGV[1]) then return -2 end
local held = redis.call('XLEN', KEYS[2]) + redis.call('HLEN', KEYS[3])
redis.call('UNLINK', unpack(KEYS, 2))
redis.call('HSET', KEYS[1], 'purged_ms', string.format('%.0f', now))
redis.call('HINCRBY', KEYS[1], 'purged', held)
return held
