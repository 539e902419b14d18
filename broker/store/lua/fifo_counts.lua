-- Exact numbers of a FIFO queue at this moment. What stands behind a message in flight counts as visible, as in SQS.
-- KEYS   1 meta  2 bodies  3 leases  4 waiting  5 open  6 delayed  7 suspects  8 outbox
-- Reply  as counts.lua; what was sent before the queue got its delay is not counted as delayed
local m = redis.call('HMGET', KEYS[1], 'kind', 'delay_ms')
if not m[1] then return { 'unknown' } end
local open = '(' .. string.format('%.0f', now)
local in_flight = redis.call('ZCOUNT', KEYS[3], open, '+inf')
local retrying = redis.call('ZCOUNT', KEYS[4], open, '+inf')
local delayed = redis.call('ZCOUNT', KEYS[6], '(' .. string.format('%.0f', now - tonumber(m[2] or 0)), '+inf')
local suspects = redis.call('ZCARD', KEYS[7])
local total = redis.call('HLEN', KEYS[2])
local head = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')
return { total - in_flight - retrying - delayed - suspects, 0, in_flight, retrying, delayed, suspects, redis.call('ZCARD', KEYS[8]), 0,
  head[2] or '-1' }
