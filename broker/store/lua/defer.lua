-- Gives leased messages back, to be handed out again when their delay is over: retries, releases, failed batches.
-- KEYS   1 ready  2 leases  3 waiting  4 bodies  5 facts  6 notes  7 meta  8 permits
-- ARGV   1 wake channel  2 counter of meta to raise ('' = none; '+' behind it: permits stay taken)  3… four values a message: lease member, delay ms,
--        tries to add (0 | 1), note ('' = none: what the last try answered)
-- Reply  {deferred, index, 'fenced' | 'unknown', …}
-- State  leased -> waiting
local n = (#ARGV - 2) / 4
local counter, keeps_permits = string.match(ARGV[2], '^(%l*)(%+?)$')
if n < 1 then return { 0 } end
redis.call('ZREM', KEYS[2], '') -- a first write that needs no memory
local refused, deferred = {}, 0
for i = 1, n do
  local at = i * 4 - 1
  local member, delay, tries, note = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3]
  local entry = string.match(member, '^(.-)|')
  local in_hash = redis.call('HEXISTS', KEYS[4], entry) == 1
  local found = not in_hash and redis.call('XRANGE', KEYS[1], entry, entry)
  local alive = in_hash or #found > 0
  if alive and redis.call('ZREM', KEYS[2], member) == 1 then
    local facts = read_facts(redis.call('HGET', KEYS[5], entry)) or first_facts(now)
    facts.tries = facts.tries + tries
    if not in_hash then redis.call('HSET', KEYS[4], entry, found[1][2][2]) end
    redis.call('HSET', KEYS[5], entry, write_facts(facts))
    if note ~= '' then redis.call('HSET', KEYS[6], entry, note) end
    redis.call('ZADD', KEYS[3], now + delay, entry)
    if not in_hash then redis.call('XDEL', KEYS[1], entry) end
    deferred = deferred + 1
  else
    refused[#refused + 1], refused[#refused + 2] = i, alive and not redis.call('ZSCORE', KEYS[3], entry) and 'fenced' or 'unknown'
  end
  if keeps_permits == '' then redis.call('ZREM', KEYS[8], member) end
end
if deferred > 0 and counter ~= '' then redis.call('HINCRBY', KEYS[7], counter, deferred) end
local m = redis.call('HMGET', KEYS[7], 'asleep', 'starved')
if m[1] == '1' or m[2] == '1' then
  redis.call('PUBLISH', ARGV[1], '')
  redis.call('HSET', KEYS[7], 'asleep', '0', 'starved', '0')
end
return { deferred, unpack(refused) }
