-- Gives leased messages of a FIFO queue back, each hidden until its delay is over; what is behind them in their groups waits as well.
-- A receiver's lease that has ended does not count any more, nor a worker's when somebody else has what stands before it.
-- KEYS   1 meta  2 bodies  3 groups  4 order  5 open  6 blocked  7 suspects  8 leases  9 holders  10 waiting  11 facts  12 notes
-- ARGV   as defer.lua
-- Reply  {deferred, index, 'fenced' | 'unknown' | 'expired', …}
-- State  leased -> in its group, hidden
-- _facts
local n = (#ARGV - 2) / 4
local counter = string.match(ARGV[2], '^%l*')
if n < 1 then return { 0 } end
redis.call('ZREM', KEYS[8], '') -- a first write that needs no memory
local groups = groups_of()
local refused, deferred, touched = {}, 0, {}
for i = 1, n do
  local at = i * 4 - 1
  local member, delay, tries, note = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3]
  local entry = string.match(member, '^(.-)|')
  local alive = redis.call('HEXISTS', KEYS[2], entry) == 1
  local lease_end = alive and tonumber(redis.call('ZSCORE', KEYS[8], member) or nil)
  local receiver = string.find(member, '|r', 1, true)
  if lease_end and lease_end <= now and (receiver or groups.taken_over(member)) then
    refused[#refused + 1], refused[#refused + 2] = i, receiver and 'expired' or 'fenced'
  elseif lease_end then
    local facts = read_facts(redis.call('HGET', KEYS[11], entry)) or first_facts(now)
    facts.tries = facts.tries + tries
    redis.call('HSET', KEYS[11], entry, write_facts(facts))
    if note ~= '' then redis.call('HSET', KEYS[12], entry, note) end
    redis.call('ZADD', KEYS[10], now + delay, entry)
    groups.some_wait = true
    redis.call('ZREM', KEYS[8], member) -- before its holder's name: a lease that nobody is named for would stay
    redis.call('HDEL', KEYS[9], entry)
    touched[redis.call('HGET', KEYS[3], entry) or ''] = true
    deferred = deferred + 1
  else
    refused[#refused + 1], refused[#refused + 2] = i, alive and not redis.call('ZSCORE', KEYS[10], entry) and 'fenced' or 'unknown'
  end
end
if deferred > 0 and counter ~= '' then redis.call('HINCRBY', KEYS[1], counter, deferred) end
if deferred > 0 then
  for group in pairs(touched) do groups.place(group) end
  wake(KEYS[1], ARGV[1]) -- also where nothing is free yet: whoever sleeps may now have an earlier time to wake at
end
return { deferred, unpack(refused) }
