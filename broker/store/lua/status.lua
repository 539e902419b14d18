-- Where one event of a function is, or how it ended.
-- KEYS   1 ready  2 waiting  3 delayed  4 suspects  5 bodies  6 facts  7 notes  8 meta  9 named  10, 11 ends, by turns
-- ARGV   1 random number that its id holds ('' = whatever the function's is)  2 entry ('' = by own id)  3 own id ('' = none)
--        4 '1' with its body
-- Reply  {'unknown'}: no such resource, or the id is another's | {'gone'} | {'ended', end}
--        {'ready' | 'waiting' | 'delayed' | 'suspect' | 'leased', entry, due ms or '', facts, note, now, body}
local m = redis.call('HMGET', KEYS[8], 'nonce', 'cursor', 'keep_ms')
if not m[1] or (ARGV[1] ~= '' and ARGV[1] ~= m[1]) then return { 'unknown' } end
local entry, name = ARGV[2], ARGV[2]
if entry == '' then
  entry, name = redis.call('HGET', KEYS[9], ARGV[3]), '=' .. ARGV[3]
end
local blob = entry and redis.call('HGET', KEYS[5], entry)
local found = entry and not blob and redis.call('XRANGE', KEYS[1], entry, entry)[1]
if blob or found then
  local place, due
  for at, word in ipairs({ 'waiting', 'delayed', 'suspect' }) do
    due = redis.call('ZSCORE', KEYS[at + 1], entry)
    if due then
      place = word
      break
    end
  end
  if not place then
    place = found and is_behind(m[2] or '0-0', entry) and 'ready' or 'leased'
  end
  return { place, entry, due or '', redis.call('HGET', KEYS[6], entry) or '', redis.call('HGET', KEYS[7], entry) or '',
    string.format('%.0f', now), ARGV[4] == '1' and (blob or found[2][2]) or '' }
end
local keep_ms, newest, newest_ms = tonumber(m[3]), nil, 0
if not keep_ms then return { 'gone' } end
for _, key in ipairs({ KEYS[10], KEYS[11] }) do
  local ended = redis.call('HGET', key, name)
  local ms = ended and tonumber(string.sub(ended, 2, 12), 16)
  if ms and ms + keep_ms > now and ms >= newest_ms then newest, newest_ms = ended, ms end
end
if newest then return { 'ended', newest } end
return { 'gone' }
