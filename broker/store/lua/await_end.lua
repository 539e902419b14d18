-- Says that somebody wants to be told when an event ends.
-- KEYS   1 awaited
-- ARGV   1 the name that its end will have  2 ms from now for which it is wanted
-- Reply  1
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now) -- first: a write that needs no memory
redis.call('ZADD', KEYS[1], 'GT', now + tonumber(ARGV[2]), ARGV[1])
return 1
