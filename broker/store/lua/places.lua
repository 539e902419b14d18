-- The names in every set of a resource, all as of the same moment. (MULTI would be refused on a full server.)
-- KEYS   sorted sets
-- Reply  the names of each
local out = {}
for i = 1, #KEYS do out[i] = redis.call('ZRANGE', KEYS[i], 0, -1) end
return out
