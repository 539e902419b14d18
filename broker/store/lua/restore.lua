-- Repair: gives messages that are in no set a place again, and clears away what a broken-off script has left over.
-- KEYS   1 ready  2 waiting  3 bodies  4 facts  5 meta  6 delayed  7 suspects  8 notes  9 groups  10 order
-- ARGV   1 n  2… n pairs: an entry that was there before the sets were read and was seen in none of them, and its facts from before
--        ('' = none)  … entries that have something left over: a copy in the stream of what is in `bodies`, or a name in a set,
--        facts or a note without a body
-- Reply  how many were restored. They may have been handed out before, so they count a receive.
-- State  stranded -> waiting (due now)
redis.call('ZREM', KEYS[2], '') -- a first write that needs no memory
local restored, n = 0, tonumber(ARGV[1])
local function copy_of(entry) return redis.call('XRANGE', KEYS[1], entry, entry)[1] end

-- Whoever is leased since the sets were read has other facts by now: see repair.py.
local function has_place(entry, facts)
  if (redis.call('HGET', KEYS[4], entry) or '') ~= facts then return true end
  for _, key in ipairs({ KEYS[2], KEYS[6], KEYS[7] }) do
    if redis.call('ZSCORE', key, entry) then return true end
  end
  local group = redis.call('HGET', KEYS[9], entry)
  return group and redis.call('ZSCORE', KEYS[10], group .. ' ' .. entry)
end

local function clear(entry, copy, in_hash)
  if copy and in_hash then
    redis.call('XDEL', KEYS[1], entry)
  elseif not copy and not in_hash then
    redis.call('HDEL', KEYS[4], entry)
    redis.call('HDEL', KEYS[8], entry)
    local group = redis.call('HGET', KEYS[9], entry)
    if group then redis.call('ZREM', KEYS[10], group .. ' ' .. entry) end
    redis.call('HDEL', KEYS[9], entry)
    for _, key in ipairs({ KEYS[2], KEYS[6], KEYS[7] }) do redis.call('ZREM', key, entry) end
  end
end

for at = 2, 2 * n, 2 do
  local entry, facts = ARGV[at], ARGV[at + 1]
  local copy, in_hash = copy_of(entry), redis.call('HEXISTS', KEYS[3], entry) == 1
  if not copy and not in_hash then
    clear(entry, copy, in_hash)
  elseif not has_place(entry, facts) then
    if facts == '' then redis.call('HSET', KEYS[4], entry, write_facts(first_facts(now))) end
    if not in_hash then redis.call('HSET', KEYS[3], entry, copy[2][2]) end
    redis.call('ZADD', KEYS[2], now, entry)
    if copy then redis.call('XDEL', KEYS[1], entry) end
    restored = restored + 1
  end
end
for at = 2 * n + 2, #ARGV do
  clear(ARGV[at], copy_of(ARGV[at]), redis.call('HEXISTS', KEYS[3], ARGV[at]) == 1)
end
if restored > 0 then redis.call('HINCRBY', KEYS[5], 'restored', restored) end
return restored
