-- Moves the end of leases in a FIFO queue to so many milliseconds from now. A receiver's lease that has ended cannot be extended,
-- nor a worker's when somebody else has what stands before it.
-- KEYS   1 meta  2 bodies  3 groups  4 order  5 open  6 blocked  7 suspects  8 leases  9 holders  10 waiting  11 facts  12 notes
-- ARGV   1 lease ms  2 wake channel  3… members (at most 1,000)
-- Reply  indexes (1…) of the members whose lease is gone
-- State  leased -> leased
-- _facts
if #ARGV < 3 then return {} end
redis.call('ZREM', KEYS[8], '') -- a first write that needs no memory
local groups = groups_of()
local lease_end = now + tonumber(ARGV[1])
local scores = redis.call('ZMSCORE', KEYS[8], unpack(ARGV, 3))
local lost, touched, earlier = {}, {}, false
for i = 1, #ARGV - 2 do
  local member, score = ARGV[i + 2], scores[i] and tonumber(scores[i])
  if not score or (score <= now and (string.find(member, '|r', 1, true) or groups.taken_over(member))) then
    lost[#lost + 1] = i
  else
    redis.call('ZADD', KEYS[8], 'XX', string.format('%.0f', lease_end), member)
    earlier = earlier or lease_end < score
    if lease_end < score or score <= now then
      touched[redis.call('HGET', KEYS[3], string.match(member, '^(.-)|')) or ''] = true
    end
  end
end
for group in pairs(touched) do groups.place(group) end
if earlier then wake(KEYS[1], ARGV[2]) end
return lost
