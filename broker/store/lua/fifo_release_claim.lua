-- After a claim of a FIFO queue whose reply was lost: as release_claim.lua.
-- KEYS   1 meta  2 bodies  3 groups  4 order  5 open  6 blocked  7 suspects  8 leases  9 holders  10 waiting  11 facts  12 notes
-- ARGV   as release_claim.lua
-- Reply  as release_claim.lua
-- State  leased -> in its group
-- _facts
local groups, touched = groups_of(), {}
local reply = release_page(KEYS[8], ARGV[1], ARGV[2], ARGV[4], ARGV[5], function(member, entry)
  redis.call('ZREM', KEYS[8], member) -- before its holder's name: a lease that nobody is named for would stay
  redis.call('HDEL', KEYS[9], entry)
  touched[redis.call('HGET', KEYS[3], entry) or ''] = true
end)
for group in pairs(touched) do groups.place(group) end
if reply[1] > 0 then wake(KEYS[1], ARGV[3]) end
return reply
