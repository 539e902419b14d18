-- Removes a resource with all that belongs to it.
-- KEYS   1 meta  2 bodies  3 ready  4 outbox  5… its other keys, and last one that keeps when it was deleted
-- ARGV   1 'force' | ''  2 wake channel  3 ms that its deletion is remembered  4 what is remembered ('' = the time); of one that is not
--        there, too
-- Reply  {'deleted', messages} | {'unknown', 0} | {'busy', messages}
if redis.call('EXISTS', KEYS[1]) == 0 then
  if ARGV[4] ~= '' then redis.call('SET', KEYS[#KEYS], ARGV[4], 'PX', ARGV[3]) end
  return { 'unknown', 0 }
end
local held = redis.call('HLEN', KEYS[2]) + redis.call('ZCARD', KEYS[4])
if redis.call('TYPE', KEYS[3]).ok == 'stream' then held = held + redis.call('XLEN', KEYS[3]) end
if held > 0 and ARGV[1] ~= 'force' then return { 'busy', held } end
redis.call('UNLINK', unpack(KEYS, 1, #KEYS - 1))
redis.call('SET', KEYS[#KEYS], ARGV[4] ~= '' and ARGV[4] or string.format('%.0f', now), 'PX', ARGV[3])
redis.call('PUBLISH', ARGV[2], 'deleted')
return { 'deleted', held }
