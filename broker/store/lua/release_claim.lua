-- After a claim whose reply was lost: gives back what was leased under its token. Looks through one page of the leases.
-- KEYS   1 ready  2 leases  3 waiting  4 bodies  5 facts  6 permits  7 meta
-- ARGV   1 token  2 first rank  3 page (at most 1,000)  4 wake channel
-- Reply  {released, leases seen on this page}
-- State  leased -> waiting (due now)
local members = redis.call('ZRANGE', KEYS[2], ARGV[2], tonumber(ARGV[2]) + tonumber(ARGV[3]) - 1)
local released = 0
for _, member in ipairs(members) do
  local entry, holder = string.match(member, '^(.-)|(.*)$')
  if holder == ARGV[1] then
    local found = redis.call('XRANGE', KEYS[1], entry, entry)
    redis.call('ZREM', KEYS[2], member)
    if #found > 0 then redis.call('HSET', KEYS[4], entry, found[1][2][2]) end
    if not redis.call('HGET', KEYS[5], entry) then
      redis.call('HSET', KEYS[5], entry, write_facts(first_facts(now)))
    end
    redis.call('ZADD', KEYS[3], now, entry)
    if #found > 0 then redis.call('XDEL', KEYS[1], entry) end
    redis.call('ZREM', KEYS[6], member)
    released = released + 1
  end
end
if released > 0 then
  local m = redis.call('HMGET', KEYS[7], 'asleep', 'starved')
  if m[1] == '1' or m[2] == '1' then
    redis.call('PUBLISH', ARGV[4], '')
    redis.call('HSET', KEYS[7], 'asleep', '0', 'starved', '0')
  end
end
return { released, #members }
