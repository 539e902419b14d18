-- A write for WAIT to wait for, behind scripts that may have found a repeat and written nothing; see lanes.py.
-- KEYS   1 meta of a resource
-- ARGV   -
-- Reply  1, 0 where the resource is gone
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[1], '') -- a first write that needs no memory
redis.call('HSET', KEYS[1], 'marked', '1')
return 1
