-- Shows messages without leasing them: waiting for a retry, delayed, set apart, in flight, then fresh ones, each by time.
-- KEYS   1 ready  2 waiting  3 delayed  4 suspects  5 bodies  6 facts  7 meta  8 leases  9 order
-- ARGV   1 how many (at most 1,000)  2 bytes
-- Reply  {place, due ms, entry, blob, facts, …}: place is 'waiting' | 'delayed' | 'suspect' | 'in_flight' | 'ready'
local room, max_bytes = math.min(tonumber(ARGV[1]), 1000), tonumber(ARGV[2])
local out, bytes = {}, 0
if room < 1 then return out end
local function show(place, due, entry, blob)
  if not blob or bytes >= max_bytes then return end
  bytes, room = bytes + #blob, room - 1
  local facts = redis.call('HGET', KEYS[6], entry) or ''
  for _, value in ipairs({ place, due, entry, blob, facts }) do out[#out + 1] = value end
end
local function body_of(entry)
  local blob = redis.call('HGET', KEYS[5], entry)
  if blob then return blob end
  local found = redis.call('XRANGE', KEYS[1], entry, entry)
  return found[1] and found[1][2][2]
end
local places = { { 'waiting', KEYS[2] }, { 'delayed', KEYS[3] }, { 'suspect', KEYS[4] }, { 'in_flight', KEYS[8] } }
for _, found in ipairs(places) do
  local place, key = found[1], found[2]
  if room > 0 then
    local members = redis.call('ZRANGE', key, 0, room - 1, 'WITHSCORES')
    for i = 1, #members, 2 do
      local entry = string.match(members[i], '^([^|]*)')
      if bytes < max_bytes then show(place, members[i + 1], entry, body_of(entry)) end
    end
  end
end
for _, member in ipairs(room > 0 and redis.call('ZRANGE', KEYS[9], 0, room - 1) or {}) do
  local entry = string.match(member, ' (.*)$')
  if bytes < max_bytes then show('ready', '0', entry, body_of(entry)) end
end
local cursor = redis.call('HGET', KEYS[7], 'cursor') or '0-0'
while room > 0 and bytes < max_bytes do
  local entries = redis.call('XRANGE', KEYS[1], '(' .. cursor, '+', 'COUNT', math.min(room, 16))
  if #entries == 0 then break end
  for _, found in ipairs(entries) do
    cursor = found[1]
    show('ready', '0', found[1], found[2][2])
  end
end
return out
