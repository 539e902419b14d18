-- Ends messages for good: succeeded, given up, deleted. What is to be sent on because of it is written here, in the same
-- step, to the resource's own outbox.
-- KEYS   1 ready  2 leases  3 bodies  4 facts  5 notes  6 meta  7 outbox  8 outgoing  9 permits  10 groups
-- ARGV   1 wake channel  2 counter of meta to raise ('+' behind it: permits stay taken)  3 n  4… n lease members  … their n entries, then three values for each
--        thing to send: index of its member (1…n), suffix of its name, record
-- Reply  {finished, index, 'fenced' | 'unknown', …}: members whose lease is not theirs any more; nothing was done for them
--        {-1}: no such resource
-- State  leased -> gone (+ outbox)
local n = tonumber(ARGV[3])
local counter, keeps_permits = string.match(ARGV[2], '^(%l*)(%+?)$')
local m = redis.call('HMGET', KEYS[6], 'kind', 'starved')
if not m[1] then return { -1 } end
if n < 1 then return { 0 } end
redis.call('ZREM', KEYS[2], '') -- a first write that needs no memory
local scores = redis.call('ZMSCORE', KEYS[2], unpack(ARGV, 4, 3 + n))
local members, entries, refused = {}, {}, {}
for i = 1, n do
  if scores[i] then
    members[#members + 1], entries[#entries + 1] = ARGV[3 + i], ARGV[3 + n + i]
  else
    local entry = ARGV[3 + n + i]
    local alive = redis.call('HEXISTS', KEYS[3], entry) == 1 or #redis.call('XRANGE', KEYS[1], entry, entry) > 0
    refused[#refused + 1], refused[#refused + 2] = i, alive and 'fenced' or 'unknown'
  end
end
local finished = 0
if #members > 0 then
  finished = redis.call('ZREM', KEYS[2], unpack(members))
  for at = 4 + 2 * n, #ARGV, 3 do
    local index = tonumber(ARGV[at])
    if scores[index] then
      local name = ARGV[3 + n + index] .. ':' .. ARGV[at + 1]
      redis.call('ZADD', KEYS[7], now, name) -- before its record: a name without one is dropped, the reverse stays
      redis.call('HSET', KEYS[8], name, ARGV[at + 2])
    end
  end
  if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('HDEL', KEYS[3], unpack(entries)) end
  redis.call('XDEL', KEYS[1], unpack(entries))
  for _, key in ipairs({ KEYS[10], KEYS[5], KEYS[4] }) do -- last: a message without its facts would start anew
    if redis.call('EXISTS', key) == 1 then redis.call('HDEL', key, unpack(entries)) end
  end
  redis.call('HINCRBY', KEYS[6], counter, finished)
end
if keeps_permits == '' and redis.call('EXISTS', KEYS[9]) == 1 then redis.call('ZREM', KEYS[9], unpack(ARGV, 4, 3 + n)) end
if m[2] == '1' then
  redis.call('PUBLISH', ARGV[1], '')
  redis.call('HSET', KEYS[6], 'starved', '0')
end
return { finished, unpack(refused) }
