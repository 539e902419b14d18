-- The move tasks of a queue: the one that runs and the newest ended ones.
-- KEYS   1 meta  2 moves, as in start_move.lua
-- ARGV
-- Reply  {counter of moved, id or name of another field, its value, …} | {}: no such queue
local m = redis.call('HMGET', KEYS[1], 'kind', 'moved')
if not m[1] then return {} end
return { m[2] or '0', unpack(redis.call('HGETALL', KEYS[2])) }
