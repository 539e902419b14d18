-- Hands a synchronous call to one worker: takes the permit, then tells the worker's inbox.
-- KEYS   1 permits  2 meta
-- ARGV   1 call id  2 permit ms  3 inbox channel ('' = the caller tells it: it is at another node)  4 notice
-- Reply  'unknown' | 'paused' | 'throttled' | 'absent' (nobody listens at the inbox; no permit is held) | 'sent' (without an inbox: granted)
local m = redis.call('HMGET', KEYS[2], 'kind', 'limit', 'paused', 'held')
if not m[1] then return 'unknown' end
if m[3] == '1' or m[4] == '1' then return 'paused' end
local limit = tonumber(m[2] or -1)
if limit >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  local held = redis.call('ZSCORE', KEYS[1], ARGV[1]) -- asked again
  if not held and redis.call('ZCARD', KEYS[1]) >= limit then return 'throttled' end
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
end
if ARGV[3] ~= '' and redis.call('PUBLISH', ARGV[3], ARGV[4]) == 0 then
  if limit >= 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end
  return 'absent'
end
return 'sent'
