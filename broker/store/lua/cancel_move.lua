-- Asks whoever runs a move task to end it: what has been moved stays moved.
-- KEYS   1 meta  2 moves, as in start_move.lua
-- ARGV   1 id  2 channel that is told  3 what it is told
-- Reply  {'cancelling', counter of moved, task} | {'none'}: no such task, or it has ended
local running, task = unpack(redis.call('HMGET', KEYS[2], '-running', ARGV[1]))
if not task or running ~= ARGV[1] then return { 'none' } end
redis.call('HDEL', KEYS[2], '') -- a first write that needs no memory
task = string.gsub(task, '^%u+', 'CANCELLING')
redis.call('HSET', KEYS[2], ARGV[1], task)
redis.call('PUBLISH', ARGV[2], ARGV[3])
return { 'cancelling', redis.call('HGET', KEYS[1], 'moved') or '0', task }
