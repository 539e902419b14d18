-- Makes one process at a time run the move task of a queue, for as long as it says so again before its time is over.
-- KEYS   1 meta  2 moves, as in start_move.lua
-- ARGV   1 who  2 ms until others may ('0': it runs it no more)
-- Reply  {'lead', now, counter of moved, id, task} | {'other', ms until its time is over} | {'none'}: no task runs
local s = redis.call('HMGET', KEYS[2], '-running', '-owner', '-until')
if not s[1] or s[1] == '' then return { 'none' } end
local left = tonumber(s[3] or 0) - now
if s[2] and s[2] ~= '' and s[2] ~= ARGV[1] and left > 0 then return { 'other', string.format('%.0f', left) } end
redis.call('HDEL', KEYS[2], '') -- a first write that needs no memory
if ARGV[2] == '0' then
  if s[2] == ARGV[1] then redis.call('HSET', KEYS[2], '-owner', '') end
  return { 'none' }
end
redis.call('HSET', KEYS[2], '-owner', ARGV[1], '-until', string.format('%.0f', now + tonumber(ARGV[2])))
local moved, task = redis.call('HGET', KEYS[1], 'moved') or '0', redis.call('HGET', KEYS[2], s[1])
return { 'lead', string.format('%.0f', now), moved, s[1], task }
