-- Removes what is older than the retention, except what is leased; a resource without retention keeps everything.
-- KEYS   1 ready  2 waiting  3 delayed  4 suspects  5 bodies  6 facts  7 notes  8 meta  9 groups  10 order
-- ARGV   1 how many to look at from the front of each place (at most 1,000)  2 bytes of `ready` to look at
-- Reply  {removed, 'more' | 'through'}: 'more' when something was removed from a place that has more than was looked at
-- State  ready | delayed | waiting | suspect -> gone (retention)
-- What is old need not stand in front: sets go by due time, and a dead letter keeps the time of its first sending. But
-- no due time and no entry lies before the sending, so whatever stands in front of it is too old, too, before long.
local retention = tonumber(redis.call('HGET', KEYS[8], 'retention_ms'))
local most, max_bytes = math.min(tonumber(ARGV[1]), 1000), tonumber(ARGV[2])
if not retention or most < 1 then return { 0, 'through' } end
local any_facts = redis.call('EXISTS', KEYS[6]) == 1
local removed, more = 0, false

local function too_old(entries)
  local old = {}
  local facts = any_facts and #entries > 0 and redis.call('HMGET', KEYS[6], unpack(entries))
  for i, entry in ipairs(entries) do
    local known = facts and read_facts(facts[i])
    local sent = known and known.sent > 0 and known.sent or entry_ms(entry)
    if sent + retention <= now then old[#old + 1] = entry end
  end
  return old
end

-- Every write that may be the first needs no memory.
local function forget(entries)
  redis.call('HDEL', KEYS[5], unpack(entries))
  redis.call('XDEL', KEYS[1], unpack(entries))
  redis.call('HDEL', KEYS[7], unpack(entries))
  redis.call('HDEL', KEYS[9], unpack(entries))
  redis.call('HDEL', KEYS[6], unpack(entries)) -- last: a message without its facts would start anew
  removed = removed + #entries
end

for at = 2, 4 do
  local front = redis.call('ZRANGE', KEYS[at], 0, most - 1)
  local old = too_old(front)
  if #old > 0 then
    redis.call('ZREM', KEYS[at], unpack(old)) -- first: a body that is in no set is found by the repair
    forget(old)
    more = more or #front == most
  end
end

-- What waits for its group's turn is sorted by group, not by age: some of it at a time, going round.
local swept = redis.call('HGET', KEYS[8], 'swept')
local members = redis.call('ZRANGEBYLEX', KEYS[10], swept and '(' .. swept or '-', '+', 'LIMIT', 0, most)
if swept or #members == most then
  redis.call('HDEL', KEYS[8], 'swept') -- a first write that needs no memory
  if #members == most then redis.call('HSET', KEYS[8], 'swept', members[most]) end
end
if #members > 0 then
  local entries, name_of = {}, {}
  for i, member in ipairs(members) do
    entries[i] = string.match(member, '(%S+)$')
    name_of[entries[i]] = member
  end
  local old = too_old(entries)
  if #old > 0 then
    for _, entry in ipairs(old) do redis.call('ZREM', KEYS[10], name_of[entry]) end
    forget(old)
  end
  more = more or #members == most
end

-- Fresh messages lie behind the cursor's entry; those up to it are leased. Bodies come along, so bytes are bounded, too.
local cursor = redis.call('HGET', KEYS[8], 'cursor') or '0-0'
local last = any_facts and '+' or string.format('%.0f', now - retention) -- without facts age goes by the entry alone
local looked, bytes, chunk, removed_before = 0, 0, 1, removed
while looked < most and bytes < max_bytes do
  local found = redis.call('XRANGE', KEYS[1], '(' .. cursor, last, 'COUNT', math.min(most - looked, chunk))
  if #found == 0 then break end
  local entries = {}
  for i, item in ipairs(found) do
    entries[i] = item[1]
    bytes = bytes + #item[2][2]
  end
  looked, cursor = looked + #found, entries[#entries]
  local old = too_old(entries)
  if #old > 0 then forget(old) end
  chunk = math.max(1, math.min(chunk * 4, 256, math.ceil((max_bytes - bytes) * looked / bytes)))
end
if removed > removed_before and (looked >= most or bytes >= max_bytes) then more = true end

if removed > 0 then redis.call('HINCRBY', KEYS[8], 'expired', removed) end
return { removed, more and 'more' or 'through' }
