-- Writes one field of a directory, on a full server too: workers must start there.
-- KEYS   1 directory
-- ARGV   1 name  2 value  3 'new': only where the name is missing | ''  4 only where this is stored ('' = whatever is)
-- Reply  the value before, or nil
local before = redis.call('HGET', KEYS[1], ARGV[1])
if before == ARGV[2] or (before and ARGV[3] == 'new') then return before end
if ARGV[4] and ARGV[4] ~= '' and before ~= ARGV[4] then return before end
redis.call('HDEL', KEYS[1], '') -- a first write that needs no memory
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return before
