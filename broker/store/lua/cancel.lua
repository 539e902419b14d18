-- Takes one event out for good, wherever it is. A lease is taken away: whoever holds it finds nothing to settle any more.
-- KEYS   1 ready  2 leases  3 waiting  4 delayed  5 suspects  6 bodies  7 facts  8 notes  9 meta  10 outbox  11 outgoing
--        12 groups  13 order  14, 15 ends, by turns  16 named  17 awaited
-- ARGV   1 entry  2 lease member it is under ('' = none)  3 facts as they were seen  4 own id ('' = none)  5 its end, without letter
--        and time  6 channel of ends; then two values for each thing to send on: suffix of its name, record
-- Reply  1 | 0: it is gone | -1: it is not as it was seen | -2: no such resource
-- State  ready | delayed | waiting | suspect | leased -> gone (+ outbox)
local entry, member = ARGV[1], ARGV[2]
local m = redis.call('HMGET', KEYS[9], 'kind', 'keep_ms', 'ended_turn', 'cursor')
if not m[1] then return -2 end
if redis.call('HEXISTS', KEYS[6], entry) == 0 and #redis.call('XRANGE', KEYS[1], entry, entry) == 0 then return 0 end
if (redis.call('HGET', KEYS[7], entry) or '') ~= ARGV[3] then return -1 end
local group = redis.call('HGET', KEYS[12], entry)
local function waits()
  for at = 3, 5 do
    if redis.call('ZSCORE', KEYS[at], entry) then return true end
  end
  if group and redis.call('ZSCORE', KEYS[13], group .. ' ' .. entry) then return true end
  return is_behind(m[4] or '0-0', entry) and #redis.call('XRANGE', KEYS[1], entry, entry) > 0
end
if member ~= '' then
  if not redis.call('ZSCORE', KEYS[2], member) then return -1 end
elseif not waits() then
  return -1
end
redis.call('ZREM', KEYS[2], member) -- a first write that needs no memory
for at = 3, 5 do redis.call('ZREM', KEYS[at], entry) end
if group then redis.call('ZREM', KEYS[13], group .. ' ' .. entry) end
for at = 7, #ARGV, 2 do
  local name = entry .. ':' .. ARGV[at]
  redis.call('ZADD', KEYS[10], now, name) -- before its record: a name without one is dropped, the reverse stays
  redis.call('HSET', KEYS[11], name, ARGV[at + 1])
end
local name = ARGV[4] == '' and entry or '=' .. ARGV[4]
if m[2] then
  local ends = ends_of(KEYS[9], { KEYS[14], KEYS[15] }, m[3], tonumber(m[2]))
  redis.call('HSET', ends, name, 'C' .. end_stamp() .. ARGV[5])
end
if ARGV[4] ~= '' then drop_name(KEYS[16], ARGV[4], entry) end
redis.call('HDEL', KEYS[6], entry)
redis.call('XDEL', KEYS[1], entry)
redis.call('HDEL', KEYS[12], entry)
redis.call('HDEL', KEYS[8], entry)
redis.call('HDEL', KEYS[7], entry) -- last: a message without its facts would start anew
redis.call('HINCRBY', KEYS[9], 'cancelled', 1)
tell_ended(KEYS[17], ARGV[6], { name, '' })
return 1
