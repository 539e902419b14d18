-- Pauses a function, or ends the pause, whatever its code declares.
-- KEYS   1 meta
-- ARGV   1 '1' pause | '' go on  2 wake channel
-- Reply  1 | 0: unknown
redis.call('HDEL', KEYS[1], '') -- a first write that needs no memory
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('HEXISTS', KEYS[1], 'partitions') == 1 then redis.call('HINCRBY', KEYS[1], 'revision', 1) end -- for the others to follow
if ARGV[1] == '1' then redis.call('HSET', KEYS[1], 'held', '1') else redis.call('HDEL', KEYS[1], 'held') end
redis.call('PUBLISH', ARGV[2], 'settings')
return 1
