-- Appends records to a stream (an append-only log kept by length and age).
-- KEYS   1 log  2 meta  3 seen
-- ARGV   1 milliseconds an own id is remembered  2 'urgent' | ''
--        3 the durability that the caller has made sure of, '' for none  4… three values each: own id ('' = none), id, record
-- Reply  {'stored', entry, …} ('' for a repeat) | {'unknown'}
--        {'durability', what is required, '' for nothing}: not what was made sure of
local m = redis.call('HMGET', KEYS[2], 'kind', 'max_length', 'retention_ms', 'durability')
if not m[1] then return { 'unknown' } end
if (m[4] or '') ~= ARGV[3] then return { 'durability', m[4] or '' } end
if ARGV[2] == 'urgent' then redis.call('ZREM', KEYS[3], '') end
local out = { 'stored' }
for at = 4, #ARGV, 3 do
  local own = ARGV[at]
  local until_ms = own ~= '' and redis.call('ZSCORE', KEYS[3], own)
  if until_ms and tonumber(until_ms) > now then
    out[#out + 1] = ''
  else
    out[#out + 1] = redis.call('XADD', KEYS[1], '*', 'id', ARGV[at + 1], 'record', ARGV[at + 2])
    if own ~= '' then redis.call('ZADD', KEYS[3], now + tonumber(ARGV[1]), own) end
  end
end
local old = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, #out * 2 + 8)
if #old > 0 then redis.call('ZREM', KEYS[3], unpack(old)) end
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', m[2])
redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', now - tonumber(m[3])))
return out
