-- Ends a move task, if it is still this process that runs it, and forgets the oldest ended ones.
-- KEYS   1 meta  2 moves, as in start_move.lua
-- ARGV   1 who  2 id  3 status  4 reason ('' = none)  5 how many ended tasks are kept
--        6 how many were moved that other partitions count
-- Reply  how many it has moved | -1: it has ended, or somebody else runs it
local s = redis.call('HMGET', KEYS[2], '-running', '-owner', ARGV[2])
if s[1] ~= ARGV[2] or s[2] ~= ARGV[1] then return -1 end
redis.call('HDEL', KEYS[2], '') -- a first write that needs no memory
local number, times, before, total, text = string.match(s[3], '^%u+,(%d+),(%d+,%d+),(%d+),(%d+),%d*,[^\n]*(\n.*)$')
local moved = tonumber(redis.call('HGET', KEYS[1], 'moved') or 0) - tonumber(before) + tonumber(ARGV[6])
local task = string.format('%s,%s,%s,%s,%s,%d,%s', ARGV[3], number, times, before, total, moved, ARGV[4]) .. text
redis.call('HSET', KEYS[2], ARGV[2], task, '-running', '', '-owner', '')
local newest, flat = tonumber(number), redis.call('HGETALL', KEYS[2])
for at = 1, #flat, 2 do -- at most a dozen: each end clears away
  local its = string.match(flat[at + 1], '^%u+,(%d+),')
  if its and newest - tonumber(its) >= tonumber(ARGV[5]) then redis.call('HDEL', KEYS[2], flat[at]) end
end
return moved
