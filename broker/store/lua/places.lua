-- The names in every set of a resource, all as of the same moment. (MULTI would be refused on a full server.)
-- KEYS   1 leases  2 waiting  3 delayed  4 suspects
-- Reply  {lease members, waiting, delayed, suspects}
local out = {}
for i = 1, 4 do out[i] = redis.call('ZRANGE', KEYS[i], 0, -1) end
return out
