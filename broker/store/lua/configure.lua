-- Creates a resource or changes its settings.
-- KEYS   1 meta
-- ARGV   1 mode: 'ensure' (only where missing) | 'create' (missing, or so far only implied) | 'replace'
--        2 kind  3 settings as JSON  4 random number of a new resource  5 '1' implied, '0' asked for  6 wake channel
--        7… field, value pairs that scripts read ('' removes the field)
-- Reply  {'created' | 'same' | 'kept' | 'changed', settings before or ''}
local m = redis.call('HMGET', KEYS[1], 'kind', 'settings', 'implied')
local missing = not m[1]
if not missing then
  if ARGV[1] == 'ensure' then return { 'kept', m[2] } end
  if ARGV[1] == 'create' and m[3] ~= '1' then
    return { m[2] == ARGV[3] and 'same' or 'kept', m[2] }
  end
end
redis.call('HDEL', KEYS[1], '') -- a first write that needs no memory: workers must start on a full server
if missing then
  redis.call('HSET', KEYS[1], 'kind', ARGV[2], 'nonce', ARGV[4], 'created_ms', string.format('%.0f', now))
end
redis.call('HSET', KEYS[1], 'settings', ARGV[3], 'implied', ARGV[5])
for at = 7, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[at])
  else
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  end
end
if missing then return { 'created', '' } end
if m[2] == ARGV[3] then return { 'same', m[2] } end
redis.call('HINCRBY', KEYS[1], 'revision', 1)
redis.call('HSET', KEYS[1], 'changed_ms', string.format('%.0f', now), 'starved', '0', 'asleep', '0')
redis.call('PUBLISH', ARGV[6], 'settings')
return { 'changed', m[2] }
