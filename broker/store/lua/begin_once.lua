-- Begins, or renews, what is to run once under a key; an earlier run's result stands until it expires.
-- KEYS   1 the key's record
-- ARGV   1 owner  2 lease ms  3 digest of the payload  4 '1' = only renews
-- Reply  {'begun'} · {'running', its lease's end in ms} · {'done', result, size} · {'other'} another payload · {'gone'}
local r = redis.call('HMGET', KEYS[1], 'state', 'owner', 'until', 'payload', 'result', 'size')
local mine = r[1] == 'running' and r[2] == ARGV[1]
if ARGV[4] == '1' and not mine then return { 'gone' } end
if r[1] and not mine and tonumber(r[3]) > now then
  if r[4] ~= ARGV[3] then return { 'other' } end
  if r[1] == 'done' then return { 'done', r[5] or '', r[6] or '0' } end
  return { 'running', r[3] }
end
local until_ms = string.format('%.0f', now + tonumber(ARGV[2]))
if not mine then redis.call('HDEL', KEYS[1], 'result', 'size') end
redis.call('HSET', KEYS[1], 'state', 'running', 'owner', ARGV[1], 'until', until_ms, 'payload', ARGV[3])
-- Longer than the lease: whoever comes back late may still end it, if nobody else has begun.
redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[2] / 1000) * 2 + 60)
return { 'begun' }
