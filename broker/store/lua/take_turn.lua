-- Takes a lock for so long: for chores that one process at a time should do, on a full server too.
-- KEYS   1 lock
-- ARGV   1 ms until it ends by itself
-- Reply  1 | 0: somebody else holds it
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[1]) -- a first write that needs no memory
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return 1
