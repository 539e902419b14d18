-- Removes what is older than the retention from a FIFO queue, except what is leased and what stands behind it.
-- KEYS   1 meta  2 bodies  3 groups  4 order  5 open  6 blocked  7 suspects  8 leases  9 holders  10 waiting  11 facts  12 notes
--        13 delayed
-- ARGV   1 how many messages to look at (at most 1,000)  2 wake channel
-- Reply  {removed, 'more' | 'through'}
-- State  in its group -> gone (retention, which in a FIFO queue begins anew in a dead-letter queue)
-- Groups are sorted by the time of their heads, and in a group the oldest comes first.
-- _facts
local retention = tonumber(redis.call('HGET', KEYS[1], 'retention_ms'))
local looks = math.min(tonumber(ARGV[1]), 1000)
if not retention or looks < 1 then return { 0, 'through' } end
local groups = groups_of()
local removed = 0
local function clear(group)
  for _, entry in ipairs(groups.entries(group, looks)) do
    looks = looks - 1
    local until_ms, holder = groups.hidden(entry)
    local leased = until_ms and holder
    if leased or entry_ms(entry) + retention > now then return end
    if holder then redis.call('ZREM', KEYS[8], entry .. '|' .. holder) end
    groups.forget(entry, group)
    removed = removed + 1
  end
end
redis.call('ZREM', KEYS[8], '') -- a first write that needs no memory
local function clear_and_place(group)
  local before = removed
  clear(group)
  if removed > before then groups.place(group) end
  return removed > before
end
local function first(key) return looks > 0 and redis.call('ZRANGE', key, 0, looks - 1) or {} end
for _, group in ipairs(first(KEYS[5])) do
  if looks <= 0 or not clear_and_place(group) then break end -- the heads of the others are younger
end
for _, group in ipairs(first(KEYS[7])) do
  if looks > 0 then clear_and_place(group) end
end
-- Groups whose head is hidden, or was: what was given back, and leases that have ended.
local hidden = first(KEYS[10])
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[8], '-inf', now, 'LIMIT', 0, math.max(looks, 0))) do hidden[#hidden + 1] = member end
for _, member in ipairs(hidden) do
  local entry = string.match(member, '^[^|]*')
  local group = looks > 0 and entry_ms(entry) + retention <= now and redis.call('HGET', KEYS[3], entry)
  if group then clear_and_place(group) end
end
redis.call('ZREMRANGEBYSCORE', KEYS[13], '-inf', now - retention)
if removed > 0 then
  redis.call('HINCRBY', KEYS[1], 'expired', removed)
  wake(KEYS[1], ARGV[2]) -- what stood behind something hidden may be free now
end
return { removed, removed > 0 and looks <= 0 and 'more' or 'through' }
