-- After a claim of a FIFO queue whose reply was lost: as release_claim.lua.
-- KEYS   1 meta  2 bodies  3 groups  4 order  5 open  6 blocked  7 suspects  8 leases  9 holders  10 waiting  11 facts  12 notes
-- ARGV   as release_claim.lua
-- Reply  as release_claim.lua
-- State  leased -> in its group
-- _facts
local start, score, last = 0, ARGV[4], ARGV[5]
if score ~= '' then
  if redis.call('ZSCORE', KEYS[8], last) == score then
    start = redis.call('ZRANK', KEYS[8], last) + 1
  else -- settled or renewed since: whatever has its score is looked at again, as nothing may be passed over
    start = redis.call('ZCOUNT', KEYS[8], '-inf', '(' .. score)
  end
end
local groups = groups_of()
local page = redis.call('ZRANGE', KEYS[8], start, start + tonumber(ARGV[2]) - 1, 'WITHSCORES')
local released, touched = 0, {}
for i = 1, #page, 2 do
  local member = page[i]
  local entry, holder = string.match(member, '^(.-)|(.*)$')
  if holder == ARGV[1] then
    redis.call('ZREM', KEYS[8], member) -- before its holder's name: a lease that nobody is named for would stay
    redis.call('HDEL', KEYS[9], entry)
    touched[redis.call('HGET', KEYS[3], entry) or ''] = true
    released = released + 1
  else
    last, score = member, page[i + 1]
  end
end
for group in pairs(touched) do groups.place(group) end
if released > 0 then wake(KEYS[1], ARGV[3]) end
return { released, #page / 2, score, last }
