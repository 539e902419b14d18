-- Shows messages of a FIFO queue without leasing them, group by group in order.
-- KEYS   1 meta  2 bodies  3 groups  4 order  5 open  6 blocked  7 suspects  8 leases  9 holders  10 waiting  11 facts  12 notes
-- ARGV   1 how many (at most 1,000)  2 bytes
-- Reply  as peek.lua
-- _facts
local room, max_bytes = math.min(tonumber(ARGV[1]), 1000), tonumber(ARGV[2])
local out, bytes = {}, 0
if room < 1 then return out end
local groups = groups_of()
for _, member in ipairs(redis.call('ZRANGE', KEYS[4], 0, room - 1)) do
  local group, entry = string.match(member, '^(%S+) (.*)$')
  local blob = redis.call('HGET', KEYS[2], entry)
  if blob and bytes < max_bytes then
    bytes = bytes + #blob
    local until_ms, holder = groups.hidden(entry)
    local place = until_ms and (holder and 'in_flight' or 'waiting') or redis.call('ZSCORE', KEYS[7], group) and 'suspect' or 'ready'
    local facts = redis.call('HGET', KEYS[11], entry) or ''
    for _, value in ipairs({ place, string.format('%.0f', until_ms or 0), entry, blob, facts }) do out[#out + 1] = value end
  end
end
return out
