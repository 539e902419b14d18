-- Creates a resource or changes its settings.
-- KEYS   1 meta  2 when one of this name was deleted
-- ARGV   1 mode: 'ensure' (only where missing) | 'create' (missing, or so far only implied) | 'replace'
--        2 kind  3 settings as JSON  4 random number of a new resource  5 '1' implied, '0' asked for  6 wake channel
--        7 'replace': only where these are (still) the settings ('' = whatever they are)  8 ms for which a deleted name is not free
--        9… field, value pairs that scripts read ('' removes the field)
-- Reply  {'created' | 'same' | 'kept' | 'changed' | 'gone' (deleted too recently), settings before or ''}
local m = redis.call('HMGET', KEYS[1], 'kind', 'settings', 'implied', 'revision')
local missing = not m[1]
if not missing then
  if ARGV[1] == 'ensure' then return { 'kept', m[2] } end
  if ARGV[1] == 'create' and m[3] ~= '1' then
    return { m[2] == ARGV[3] and 'same' or 'kept', m[2] }
  end
end
if ARGV[7] ~= '' and m[2] ~= ARGV[7] then return { 'kept', m[2] or '' } end
if missing and ARGV[8] ~= '0' then
  local gone_ms = redis.call('GET', KEYS[2])
  if gone_ms and now - tonumber(gone_ms) < tonumber(ARGV[8]) then return { 'gone', '' } end
end
redis.call('HDEL', KEYS[1], '') -- a first write that needs no memory: workers must start on a full server
-- One write says all, so that no other script ever sees half of the settings.
local changed = not missing and m[2] ~= ARGV[3]
local fields = { 'settings', ARGV[3], 'implied', ARGV[5] }
local function set(field, value) fields[#fields + 1], fields[#fields + 2] = field, value end
if missing then
  set('kind', ARGV[2])
  set('nonce', ARGV[4])
  set('created_ms', string.format('%.0f', now))
end
if changed then
  set('revision', tonumber(m[4] or 0) + 1)
  set('changed_ms', string.format('%.0f', now))
  set('starved', '0')
  set('asleep', '0')
end
for at = 9, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[at])
  else
    set(ARGV[at], ARGV[at + 1])
  end
end
redis.call('HSET', KEYS[1], unpack(fields))
if missing then
  redis.call('PUBLISH', ARGV[6], 'settings')
  return { 'created', '' }
end
if not changed then return { 'same', m[2] } end
redis.call('PUBLISH', ARGV[6], 'settings')
return { 'changed', m[2] }
