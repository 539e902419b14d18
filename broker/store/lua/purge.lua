-- Throws all messages of a resource away, those in flight too; settings, ids in use and what is to be sent on stay.
-- KEYS   1 ready  2 leases  3 waiting  4 delayed  5 suspects  6 bodies  7 facts  8 notes  9 meta
-- Reply  how many there were, or -1: unknown
if redis.call('EXISTS', KEYS[9]) == 0 then return -1 end
local held = redis.call('XLEN', KEYS[1]) + redis.call('HLEN', KEYS[6])
redis.call('UNLINK', unpack(KEYS, 1, 8))
redis.call('HINCRBY', KEYS[9], 'purged', held)
return held
