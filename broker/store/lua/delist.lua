-- Removes one field of a directory where it still has this value.
-- KEYS   1 directory
-- ARGV   1 name  2 value
-- Reply  1 | 0: it has another value, or none
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
