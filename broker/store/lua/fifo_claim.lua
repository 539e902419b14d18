-- Leases messages of a FIFO queue to one caller: of each group its first ones in order, groups with the oldest heads first.
-- KEYS   1 meta  2 bodies  3 groups  4 order  5 open  6 blocked  7 suspects  8 leases  9 holders  10 waiting  11 facts  12 notes
--        13 outbox  14 outgoing  15 delayed  16 attempt (of a receive that may be repeated)
-- ARGV   1 lease token, as in claim.lua  2 lease ms ('' = the queue's own)  3 room (messages)  4 bytes  5 mode: 'work' | 'alone' | 'receive'
--        6 most of one group  7 '1': wake this caller when there is more  8 wake channel
--        9 crashes after which a message is handed out to be given up ('' = 3)  10 most in flight ('' = no limit)
--        11 ms an attempt is remembered ('' = this receive is none)
-- Reply  as claim.lua, and the token under which the messages are leased
-- State  in its group -> leased | suspect | outbox (receives used up) | gone (retention)
-- _facts
local token, room, max_bytes, mode, per_group = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local m = redis.call('HMGET', KEYS[1], 'kind', 'revision', 'fence', 'asleep', 'nonce', 'max_receives', 'retention_ms', 'delay_ms',
  'visibility_ms', 'wait_ms', 'expired', 'dead')
if not m[1] then return { 'unknown' } end
local lease_ms = tonumber(ARGV[2]) or tonumber(m[9] or 30000)
local out, count, bytes = {}, 0, 0
local received_ms = now
local function answer(status, next_due, fence)
  return { status, string.format('%.0f', received_ms), next_due and string.format('%.0f', next_due) or '-1', m[2] or '0', -1,
    redis.call('ZCARD', KEYS[7]), redis.call('ZCARD', KEYS[13]), fence or '0', m[5], out, m[10] or '0', token }
end
if room < 1 then return answer('full') end
redis.call('ZREM', KEYS[8], '') -- a first write that needs no memory: what follows passes on a full server
local lease_end = string.format('%.0f', now + lease_ms)
local groups = groups_of()

-- The same attempt again gives the same messages under the same leases, unless one of them was changed meanwhile.
local function repeated()
  local kept = ARGV[11] ~= '' and redis.call('GET', KEYS[16])
  if not kept then return false end
  local until_ms, end_ms, held, entries = string.match(kept, '^(%d+) (%d+) (%S+) (.*)$')
  if tonumber(until_ms) <= now or tonumber(end_ms) <= now then return false end
  local again = {}
  for entry in string.gmatch(entries, '%S+') do
    local blob = redis.call('HGET', KEYS[2], entry)
    if not blob or tonumber(redis.call('ZSCORE', KEYS[8], entry .. '|' .. held) or 0) ~= tonumber(end_ms) then return false end
    again[#again + 1] = { entry, blob, redis.call('HGET', KEYS[11], entry) or '' }
  end
  redis.call('SET', KEYS[16], table.concat({ until_ms, lease_end, held, entries }, ' '), 'KEEPTTL')
  for _, found in ipairs(again) do
    redis.call('ZADD', KEYS[8], 'XX', lease_end, found[1] .. '|' .. held)
    for _, value in ipairs(found) do out[#out + 1] = value end
    groups.place(redis.call('HGET', KEYS[3], found[1])) -- the lease may end earlier now
  end
  if tonumber(lease_end) < tonumber(end_ms) then wake(KEYS[1], ARGV[8]) end
  token = held
  received_ms = tonumber(until_ms) - tonumber(ARGV[11]) -- when it was done first: receipt handles are made of it
  return true
end
if repeated() then return answer('ok', nil, m[3]) end

local most = tonumber(ARGV[10])
if most then
  room = math.min(room, most - redis.call('ZCOUNT', KEYS[8], '(' .. string.format('%.0f', now), '+inf'))
  if room < 1 then return answer('over') end
end
local delay, retention, max_receives = tonumber(m[8] or 0), tonumber(m[7]), tonumber(m[6])
local max_crashes = tonumber(ARGV[9]) or 3
-- Without a delay no time is compared: after the clock was set back, entries lie in the future.
local youngest = delay > 0 and string.format('%.0f', now - delay) or '+inf'
local function old_enough(ms) return delay == 0 or ms + delay <= now end
local expired, dead, granted_entries, scans = 0, 0, {}, 5000
local any_set_apart = false

local function drop_lease(entry, holder)
  if holder then
    redis.call('ZREM', KEYS[8], entry .. '|' .. holder)
    redis.call('HDEL', KEYS[9], entry)
  end
  if groups.some_wait then redis.call('ZREM', KEYS[10], entry) end
end

local function facts_now(entry, holder)
  local facts = read_facts(redis.call('HGET', KEYS[11], entry))
  if holder and redis.call('ZSCORE', KEYS[8], entry .. '|' .. holder) then -- a lease that ended without a word
    facts = facts or first_facts(now)
    if string.sub(holder, 1, 1) ~= 'r' then facts.crashes, facts.culprit = facts.crashes + 1, holder end
  end
  return facts
end

-- What is handed out of some groups is written together: facts, holders, leases, and last the groups' new place.
local new_facts, new_holders, new_leases, new_blocked, taken_groups = {}, {}, {}, {}, {}
local function write_granted()
  if #taken_groups == 0 then return end
  redis.call('HSET', KEYS[11], unpack(new_facts))
  redis.call('HSET', KEYS[9], unpack(new_holders))
  redis.call('ZADD', KEYS[8], unpack(new_leases))
  redis.call('ZADD', KEYS[6], unpack(new_blocked))
  redis.call('ZREM', KEYS[5], unpack(taken_groups))
  if groups.some_suspects then redis.call('ZREM', KEYS[7], unpack(taken_groups)) end
  new_facts, new_holders, new_leases, new_blocked, taken_groups = {}, {}, {}, {}, {}
end

local function grant(entry, blob, facts)
  facts = facts or { receives = 0, tries = 0, crashes = 0, first = 0, sent = 0, culprit = '' }
  facts.receives = facts.receives + 1
  if facts.first == 0 then facts.first = now end
  local text = write_facts(facts)
  local at = #new_facts
  new_facts[at + 1], new_facts[at + 2] = entry, text
  new_holders[at + 1], new_holders[at + 2] = entry, token
  new_leases[at + 1], new_leases[at + 2] = lease_end, entry .. '|' .. token
  out[#out + 1], out[#out + 2], out[#out + 3] = entry, blob, text
  count, bytes = count + 1, bytes + #blob
  granted_entries[#granted_entries + 1] = entry
end

-- What becomes of one visible message: 'granted' | 'gone' | 'stop' (nothing behind it may go) | 'suspect'.
local function hand_out(entry, group, holder, taken)
  scans = scans - 1
  local blob = redis.call('HGET', KEYS[2], entry)
  if not blob or (retention and entry_ms(entry) + retention <= now) then
    if blob then expired = expired + 1 end
    drop_lease(entry, holder)
    groups.forget(entry, group)
    return 'gone'
  end
  local facts = facts_now(entry, holder)
  if mode == 'work' and facts and facts.crashes > 0 and facts.crashes <= max_crashes then
    if taken > 0 then return 'stop' end
    redis.call('HSET', KEYS[11], entry, write_facts(facts))
    drop_lease(entry, holder)
    return 'suspect'
  end
  if max_receives and facts and facts.receives >= max_receives then
    redis.call('ZADD', KEYS[13], now, entry .. ':m') -- before its record: a name without one is dropped, the reverse stays
    redis.call('HSET', KEYS[14], entry .. ':m', 'M' .. write_facts(facts) .. '\n' .. entry .. '\n' .. blob)
    dead = dead + 1
    drop_lease(entry, holder)
    groups.forget(entry, group)
    return 'gone'
  end
  drop_lease(entry, holder)
  grant(entry, blob, facts)
  return 'granted'
end

-- Takes what a group may hand out. Answers whether it is still open, with nothing taken from it.
local function take_from(group)
  local taken, after, more = 0, nil, true
  while more and taken < per_group and count < room and bytes < max_bytes and scans > 0 do
    local entries = groups.entries(group, math.min(per_group - taken, room - count, 50), after)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      local until_ms, holder = groups.hidden(entry)
      more = not until_ms and old_enough(entry_ms(entry)) and bytes < max_bytes
      if not more then break end
      after = entry
      local what = hand_out(entry, group, holder, taken)
      if what == 'suspect' then
        redis.call('ZADD', KEYS[7], now, group)
        redis.call('ZREM', KEYS[5], group)
        redis.call('ZREM', KEYS[6], group)
        any_set_apart, groups.some_suspects = true, true
        return false
      end
      if what == 'granted' then taken = taken + 1 end
      more = what ~= 'stop'
      if not more then break end
    end
  end
  if taken > 0 then
    new_blocked[#new_blocked + 1], new_blocked[#new_blocked + 2] = lease_end, group
    taken_groups[#taken_groups + 1] = group
    return false
  end
  local head_ms = groups.place(group)
  return head_ms and old_enough(head_ms)
end

-- Opens groups whose time may have come, and for a receiver what was set apart, until there are enough to go on with. Answers how
-- many were opened.
local function open_more()
  local opened = 0
  -- What was leased for no time at all could be looked at again, too, and must not go out twice.
  while opened < room - count and scans > 0 and not (count > 0 and lease_ms == 0) do
    local due = redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', now, 'LIMIT', 0, math.min(room - count, 100))
    if #due == 0 then break end
    for _, group in ipairs(due) do
      scans = scans - 1
      local head_ms = groups.place(group)
      if head_ms and old_enough(head_ms) then opened = opened + 1 end
    end
  end
  if mode == 'receive' and opened < room - count then
    for _, group in ipairs(redis.call('ZRANGE', KEYS[7], 0, room - count - opened - 1)) do
      scans = scans - 1
      if groups.place(group) then opened = opened + 1 end
    end
  end
  return opened
end

if mode == 'alone' then
  per_group = 1
  for _, group in ipairs(redis.call('ZRANGE', KEYS[7], 0, room - 1)) do
    if count < room then take_from(group) end
  end
  write_granted()
else
  open_more()
  local passed = 0 -- groups that stay open although nothing could be taken from them
  while count < room and bytes < max_bytes and scans > 0 do
    local open = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', youngest, 'LIMIT', passed, math.min(room - count, 100))
    if #open == 0 and open_more() == 0 then break end
    for _, group in ipairs(open) do
      if count >= room or bytes >= max_bytes or scans <= 0 then break end
      scans = scans - 1
      if take_from(group) then passed = passed + 1 end
    end
    write_granted()
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[15], '-inf', now - delay)

local changes, fence = {}, tonumber(m[3] or 0)
local function set(field, value) changes[#changes + 1], changes[#changes + 2] = field, value end
if count > 0 then
  fence = fence + 1
  set('fence', fence)
end
if expired > 0 then set('expired', tonumber(m[11] or 0) + expired) end
if dead > 0 then set('dead', tonumber(m[12] or 0) + dead) end
if ARGV[7] == '1' and count < room and m[4] ~= '1' then set('asleep', '1') end
if #changes > 0 then redis.call('HSET', KEYS[1], unpack(changes)) end
if ARGV[11] ~= '' then
  if count > 0 then
    local kept = { string.format('%.0f', now + tonumber(ARGV[11])), lease_end, token, table.concat(granted_entries, ' ') }
    redis.call('SET', KEYS[16], table.concat(kept, ' '), 'PX', ARGV[11])
  else
    redis.call('DEL', KEYS[16])
  end
end
if any_set_apart then redis.call('PUBLISH', ARGV[8], '') end

local next_due
if count < room and ARGV[7] == '1' then
  local function look(key, later)
    local head = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    local due = head[2] and tonumber(head[2]) + later
    if due and (not next_due or due < next_due) then next_due = due end
  end
  if mode == 'alone' then look(KEYS[7], 0) else
    look(KEYS[6], 0)
    if delay > 0 then look(KEYS[5], delay) end
  end
end
if scans <= 0 then next_due = now end
return answer('ok', next_due, fence)
