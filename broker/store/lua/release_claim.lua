-- After a claim whose reply was lost, or came too late: gives back what was leased under its token. Looks through one page of the leases.
-- KEYS   1 ready  2 leases  3 waiting  4 bodies  5 facts  6 permits  7 meta
-- ARGV   1 token  2 page (at most 1,000)  3 wake channel  4 score and 5 member behind which to go on ('' = from the first)
-- Reply  {released, leases seen on this page, score, member}: where the next page begins, whatever is settled or renewed meanwhile
-- State  leased -> waiting (due now)
local reply = release_page(KEYS[2], ARGV[1], ARGV[2], ARGV[4], ARGV[5], function(member, entry)
  local found = redis.call('XRANGE', KEYS[1], entry, entry)
  redis.call('ZREM', KEYS[2], member)
  if #found > 0 then redis.call('HSET', KEYS[4], entry, found[1][2][2]) end
  if not redis.call('HGET', KEYS[5], entry) then
    redis.call('HSET', KEYS[5], entry, write_facts(first_facts(now)))
  end
  redis.call('ZADD', KEYS[3], now, entry)
  if #found > 0 then redis.call('XDEL', KEYS[1], entry) end
  redis.call('ZREM', KEYS[6], member)
end)
if reply[1] > 0 then
  local m = redis.call('HMGET', KEYS[7], 'asleep', 'starved')
  if m[1] == '1' or m[2] == '1' then
    redis.call('PUBLISH', ARGV[3], '')
    redis.call('HSET', KEYS[7], 'asleep', '0', 'starved', '0')
  end
end
return reply
