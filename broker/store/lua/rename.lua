-- Writes a field of a directory under another name, in one step.
-- KEYS   1 directory
-- ARGV   1 name  2 only where this is stored under it  3 new name  4 value
-- Reply  1, or 0 where something else is stored, or the new name is taken
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] or redis.call('HEXISTS', KEYS[1], ARGV[3]) == 1 then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
return 1
