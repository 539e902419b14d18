-- Ends messages of a FIFO queue for good, and lets their groups go on. A receiver's lease that has ended does not count any more,
-- nor a worker's when somebody else has what stands before it.
-- KEYS   1 meta  2 bodies  3 groups  4 order  5 open  6 blocked  7 suspects  8 leases  9 holders  10 waiting  11 facts  12 notes
--        13 outbox  14 outgoing
-- ARGV   as finish.lua (permits are not a queue's)
-- Reply  {finished, index, 'fenced' | 'unknown' | 'expired', …} | {-1}: no such queue
-- State  leased -> gone (+ outbox)
-- _facts
local n = tonumber(ARGV[3])
local counter = string.match(ARGV[2], '^%l*')
if redis.call('EXISTS', KEYS[1]) == 0 then return { -1 } end
if n < 1 then return { 0 } end
redis.call('ZREM', KEYS[8], '') -- a first write that needs no memory
local scores = redis.call('ZMSCORE', KEYS[8], unpack(ARGV, 4, 3 + n))
local groups = groups_of()
local group_of = redis.call('HMGET', KEYS[3], unpack(ARGV, 4 + n, 3 + 2 * n))
local onward = {} -- index -> the places of its records in ARGV
for at = 4 + 2 * n, #ARGV, 3 do
  local index = tonumber(ARGV[at])
  onward[index] = onward[index] or {}
  table.insert(onward[index], at)
end
local refused, touched = {}, {}
local members, entries, names = {}, {}, {}
for i = 1, n do
  local member, entry, group = ARGV[3 + i], ARGV[3 + n + i], group_of[i]
  local receiver = string.find(member, '|r', 1, true)
  if not scores[i] then
    refused[#refused + 1], refused[#refused + 2] = i, redis.call('HEXISTS', KEYS[2], entry) == 1 and 'fenced' or 'unknown'
  elseif tonumber(scores[i]) <= now and (receiver or groups.taken_over(member)) then
    refused[#refused + 1], refused[#refused + 2] = i, receiver and 'expired' or 'fenced'
  else
    for _, at in ipairs(onward[i] or {}) do
      local name = entry .. ':' .. ARGV[at + 1]
      redis.call('ZADD', KEYS[13], now, name) -- before its record: a name without one is dropped, the reverse stays
      redis.call('HSET', KEYS[14], name, ARGV[at + 2])
    end
    members[#members + 1], entries[#entries + 1], names[#names + 1] = member, entry, (group or '') .. ' ' .. entry
    if group then touched[group] = math.max(touched[group] or 0, tonumber(scores[i])) end
  end
end
local finished = #members > 0 and redis.call('ZREM', KEYS[8], unpack(members)) or 0
groups.forget_all(entries, names)
local sooner = false -- whoever sleeps knows when the lease would have ended, not what stands behind it
for group, lease_end in pairs(touched) do
  local open, until_ms = groups.place(group)
  sooner = sooner or open or (until_ms and until_ms < lease_end)
end
if finished > 0 then redis.call('HINCRBY', KEYS[1], counter, finished) end
if sooner then wake(KEYS[1], ARGV[1]) end
return { finished, unpack(refused) }
