-- Exact numbers of one resource at this moment.
-- KEYS   1 ready  2 leases  3 waiting  4 delayed  5 suspects  6 bodies  7 outbox  8 permits  9 meta  10 order  11 open
-- Reply  {fresh, due, in flight, retrying, delayed, suspects, outbox, running, oldest fresh ms or -1,
--        and the number of partitions, where there are several} | {'unknown'}
--        due counts what may be handed out now besides fresh: waiting and delayed past their time, ended leases
local m = redis.call('HMGET', KEYS[9], 'kind', 'partitions')
if not m[1] then return { 'unknown' } end
local open = '(' .. string.format('%.0f', now)
local leases, waiting, delayed = redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3]), redis.call('ZCARD', KEYS[4])
local suspects, in_turn = redis.call('ZCARD', KEYS[5]), redis.call('ZCARD', KEYS[10])
local in_flight = redis.call('ZCOUNT', KEYS[2], open, '+inf')
local retrying = redis.call('ZCOUNT', KEYS[3], open, '+inf')
local not_due = redis.call('ZCOUNT', KEYS[4], open, '+inf')
-- A body is in the hash for whatever is waiting, delayed, set apart, in its group's turn, or leased out of those; the rest is in
-- the stream.
local leased_from_hash = redis.call('HLEN', KEYS[6]) - waiting - delayed - suspects - in_turn
local fresh = redis.call('XLEN', KEYS[1]) - (leases - leased_from_hash) + in_turn
local due = (leases - in_flight) + (waiting - retrying) + (delayed - not_due)
local oldest = '-1'
if in_turn > 0 then -- of the group whose turn is next
  local groups = redis.call('ZRANGE', KEYS[11], 0, 1)
  local group = groups[1] == '' and groups[2] or groups[1]
  local head = group and redis.call('ZRANGEBYLEX', KEYS[10], '[' .. group .. ' ', '(' .. group .. '!', 'LIMIT', 0, 1)[1]
  if head then oldest = string.match(head, '(%d+)%-%d+$') end
end
if fresh > in_turn then
  local cursor = redis.call('HGET', KEYS[9], 'cursor') or '0-0'
  local head = redis.call('XRANGE', KEYS[1], '(' .. cursor, '+', 'COUNT', 1)
  local head_ms = head[1] and string.match(head[1][1], '^(%d+)')
  if head_ms and (oldest == '-1' or tonumber(head_ms) < tonumber(oldest)) then oldest = head_ms end
end
return { fresh, due, in_flight, retrying, not_due, suspects, redis.call('ZCARD', KEYS[7]),
  redis.call('ZCOUNT', KEYS[8], open, '+inf'), oldest, m[2] }
