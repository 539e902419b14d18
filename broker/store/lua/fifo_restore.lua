-- Repair of a FIFO queue: bodies that are in no group get their place again, what is both leased and given back stays leased, names
-- without a body are cleared away, and every group that is looked at is put where its head says.
-- KEYS   1 meta  2 bodies  3 groups  4 order  5 open  6 blocked  7 suspects  8 leases  9 holders  10 waiting  11 facts  12 notes
--        13 delayed
-- ARGV   1 wake channel  2 n  3… n pairs: entry, group ('' = not known)  … groups to be looked at
-- Reply  how many were restored
-- State  stranded -> in its group
-- _facts
redis.call('ZREM', KEYS[8], '') -- a first write that needs no memory
local groups = groups_of()
local restored, n = 0, tonumber(ARGV[2])
local function look_at(group)
  local head = redis.call('ZSCORE', KEYS[7], group) and groups.entries(group, 1)[1]
  if head and not groups.hidden(head) then -- set apart, and nothing else
    redis.call('ZREM', KEYS[5], group)
    redis.call('ZREM', KEYS[6], group)
  else
    groups.place(group)
  end
end
for i = 1, n do
  local entry, group = ARGV[2 * i + 1], ARGV[2 * i + 2]
  local holder = redis.call('HGET', KEYS[9], entry)
  local leased = holder and redis.call('ZSCORE', KEYS[8], entry .. '|' .. holder)
  if redis.call('HEXISTS', KEYS[2], entry) == 0 then
    if leased then redis.call('ZREM', KEYS[8], entry .. '|' .. holder) end
    redis.call('ZREM', KEYS[13], entry)
    groups.forget(entry, group)
  elseif group ~= '' then
    if holder and not leased then redis.call('HDEL', KEYS[9], entry) end
    if leased then redis.call('ZREM', KEYS[10], entry) end
    redis.call('HSET', KEYS[3], entry, group)
    restored = restored + redis.call('ZADD', KEYS[4], 0, group .. ' ' .. entry)
  end
  if group ~= '' then look_at(group) end
end
for at = 2 * n + 3, #ARGV do look_at(ARGV[at]) end
wake(KEYS[1], ARGV[1])
if restored > 0 then redis.call('HINCRBY', KEYS[1], 'restored', restored) end
return restored
