-- Removes a message of a standard queue that nobody holds: whoever had received it deletes it with an old receipt.
-- KEYS   1 ready  2 waiting  3 open  4 suspects  5 bodies  6 facts  7 notes  8 meta  9 groups  10 order
-- ARGV   1 entry
-- Reply  1 | 0: it is not there, or in nobody's hands but not waiting either (never handed out)
-- State  waiting | suspect | in its group's turn -> gone
local entry = ARGV[1]
local group = redis.call('HGET', KEYS[9], entry)
local found = redis.call('ZREM', KEYS[2], entry) + redis.call('ZREM', KEYS[4], entry)
if group then
  found = found + redis.call('ZREM', KEYS[10], group .. ' ' .. entry)
  local left = redis.call('ZRANGEBYLEX', KEYS[10], '[' .. group .. ' ', '(' .. group .. '!', 'LIMIT', 0, 1)
  if not left[1] then redis.call('ZREM', KEYS[3], group) end
end
if found == 0 then return 0 end
redis.call('HDEL', KEYS[5], entry)
redis.call('XDEL', KEYS[1], entry)
redis.call('HDEL', KEYS[9], entry)
redis.call('HDEL', KEYS[7], entry)
redis.call('HDEL', KEYS[6], entry) -- last: a message without its facts would start anew
redis.call('HINCRBY', KEYS[8], 'deleted', 1)
return 1
