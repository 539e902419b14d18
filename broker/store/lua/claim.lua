-- Leases messages to one caller: what is due, what was left by an ended lease, then fresh ones in order of arrival.
-- Messages with a group take turns: one group after the other, and what came without a group counts as one more. So who sends much
-- waits for himself.
-- KEYS   1 ready  2 leases  3 waiting  4 delayed  5 suspects  6 bodies  7 facts  8 meta  9 outbox  10 outgoing  11 permits
--        12 groups  13 order  14 open
-- ARGV   1 lease token: w… a worker's, s… a worker's that runs it alone, r… a receiver's
--        2 lease ms ('' = the queue's own)  3 room (messages)  4 bytes  5 mode: 'work' | 'alone' | 'receive' | 'aged'
--        6 'aged' mode: only what was sent at or before this ms, else ''  7 '1': wake this caller when there is more
--        8 wake channel: told when a message is set apart
--        9 crashes after which a message is handed out to be given up ('' = the resource's own, or 3)
--        10 most in flight ('' = no limit)  11 '1': whoever asks has taken permits for as many before
-- Reply  {status, now, next due ms or -1, revision, limit or -1, suspects, outbox, fence, random number, {entry, blob, facts, …},
--        the queue's own wait ms, and where there are several: '', the number of partitions}
--        status: 'ok' | 'paused' | 'full' (no permit free, or none taken where they are another partition's to give) | 'over' (too many in flight); or {'unknown'}
-- State  ready | delayed | waiting | turn | ended lease -> leased | suspect | outbox (receives used up) | gone (retention)
local token, room = ARGV[1], tonumber(ARGV[3])
local max_bytes, mode, aged_ms, wake = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6]), ARGV[7] == '1'
local m = redis.call('HMGET', KEYS[8], 'kind', 'paused', 'limit', 'cursor', 'max_receives', 'retention_ms',
  'max_crashes', 'revision', 'fence', 'asleep', 'expired', 'dead', 'nonce', 'held', 'visibility_ms', 'wait_ms', 'turn',
  'partitions')
if not m[1] then return { 'unknown' } end
local lease_ms = tonumber(ARGV[2]) or tonumber(m[15] or 30000)
local limit = tonumber(m[3] or -1)
local out, count, bytes = {}, 0, 0
local scans = 5000 -- how many messages one call may look at, whatever becomes of them

local function first_score(key)
  local head = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return head[2] and tonumber(head[2])
end

local function answer(status, next_due, fence)
  local reply = { status, string.format('%.0f', now), next_due and string.format('%.0f', next_due) or '-1', m[8] or '0',
    limit, redis.call('ZCARD', KEYS[5]), redis.call('ZCARD', KEYS[9]), fence or '0', m[13], out,
    m[16] or '0' }
  if m[18] then reply[12], reply[13] = '', m[18] end
  return reply
end

if (m[2] == '1' or m[14] == '1') and mode ~= 'receive' then return answer('paused') end
if room < 1 then return answer('full') end

if ARGV[10] ~= '' then
  room = math.min(room, tonumber(ARGV[10]) - redis.call('ZCOUNT', KEYS[2], '(' .. string.format('%.0f', now), '+inf'))
  if room < 1 then return answer('over') end
end

redis.call('ZREM', KEYS[2], '') -- a first write that needs no memory: what follows passes on a full server
local needs_permit = limit > 0 and mode ~= 'aged' and mode ~= 'receive' and ARGV[11] ~= '1'
if needs_permit and m[18] then return answer('full', now) end -- by whoever does not know yet that it is split
if needs_permit then
  redis.call('ZREMRANGEBYSCORE', KEYS[11], '-inf', now)
  local free = limit - redis.call('ZCARD', KEYS[11])
  if free < room then
    room = free
    redis.call('HSET', KEYS[8], 'starved', '1')
  end
  if room < 1 then return answer('full', first_score(KEYS[11])) end
end

local max_receives = tonumber(m[5])
local retention = tonumber(m[6])
local max_crashes = tonumber(ARGV[9]) or tonumber(m[7] or 3)
local expired, dead = 0, 0
local granted = {} -- score, member, score, member, …
local first_seen = {} -- entry, facts, entry, facts, …
local grouped = redis.call('EXISTS', KEYS[12]) == 1
local turn = tonumber(m[17] or 0)
local lease_end = string.format('%.0f', now + lease_ms)

local function forget(entry)
  redis.call('HDEL', KEYS[6], entry)
  if grouped then redis.call('HDEL', KEYS[12], entry) end
  redis.call('XDEL', KEYS[1], entry)
  redis.call('HDEL', KEYS[7], entry) -- last: a message without its facts would start anew
end

local function grant(entry, blob, facts)
  local lease, place = 2 * count, 3 * count -- Lua searches for the end of a list each time that it is asked
  granted[lease + 1], granted[lease + 2] = lease_end, entry .. '|' .. token
  out[place + 1], out[place + 2], out[place + 3] = entry, blob, facts
  count, bytes = count + 1, bytes + #blob
end

-- What a receiver asks for may be asked about: when it was first received. A worker's event needs no such note.
local function grant_first(entry, blob)
  if mode ~= 'receive' then return grant(entry, blob, '') end
  local text = write_facts(first_facts(now))
  first_seen[#first_seen + 1], first_seen[#first_seen + 2] = entry, text
  grant(entry, blob, text)
end

-- Hands out a message that has facts or a past; its place has been taken from it before the call.
local function hand_out(entry, blob, facts)
  scans = scans - 1
  if not blob then
    redis.call('HDEL', KEYS[7], entry)
    return
  end
  local sent = facts and facts.sent > 0 and facts.sent or entry_ms(entry)
  if retention and sent + retention <= now then
    expired = expired + 1
    return forget(entry)
  end
  if not facts then return grant_first(entry, blob) end
  if max_receives and facts.receives >= max_receives then
    redis.call('ZADD', KEYS[9], now, entry .. ':m') -- before its record: a name without one is dropped, the reverse stays
    redis.call('HSET', KEYS[10], entry .. ':m', 'M' .. write_facts(facts) .. '\n' .. entry .. '\n' .. blob)
    dead = dead + 1
    return forget(entry)
  end
  facts.receives = facts.receives + 1
  if facts.first == 0 then facts.first = now end
  local text = write_facts(facts)
  redis.call('HSET', KEYS[7], entry, text)
  grant(entry, blob, text)
end

local function body_of(entry)
  local blob = redis.call('HGET', KEYS[6], entry)
  if blob then return blob, true end
  local found = redis.call('XRANGE', KEYS[1], entry, entry)
  return found[1] and found[1][2][2], false
end

-- What comes back and has a group waits for its group's turn.
local function rejoin(entry, facts)
  local group = grouped and mode ~= 'aged' and redis.call('HGET', KEYS[12], entry)
  if not group then return false end
  scans = scans - 1
  if facts then redis.call('HSET', KEYS[7], entry, write_facts(facts)) end
  redis.call('ZADD', KEYS[14], 'NX', turn + 1, group) -- first: what stands in a group that has no turn would not be found
  redis.call('ZADD', KEYS[13], 0, group .. ' ' .. entry)
  return true
end

local any_set_apart = false

-- A worker's lease that ended without settle or release is a crash: from now on the event runs alone.
local function set_apart(entry, blob, in_hash, facts)
  redis.call('HSET', KEYS[7], entry, write_facts(facts))
  if not in_hash then redis.call('HSET', KEYS[6], entry, blob) end
  redis.call('ZADD', KEYS[5], now, entry)
  any_set_apart = true
  if not in_hash then redis.call('XDEL', KEYS[1], entry) end
end

local function take_ended_leases()
  while count < room and bytes < max_bytes and scans > 0 do
    local ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, math.min(room - count, 500))
    if #ended == 0 then return end
    for _, member in ipairs(ended) do
      if bytes >= max_bytes then return end
      local entry, holder = string.match(member, '^(.-)|(.*)$')
      local blob, in_hash = body_of(entry)
      local facts = read_facts(redis.call('HGET', KEYS[7], entry)) or first_facts(now)
      redis.call('ZREM', KEYS[2], member)
      if string.sub(holder, 1, 1) ~= 'r' then facts.crashes, facts.culprit = facts.crashes + 1, holder end
      if not blob or mode == 'receive' or facts.crashes == 0 or facts.crashes > max_crashes then
        if not blob or mode == 'alone' or not rejoin(entry, facts) then hand_out(entry, blob, facts) end
      else
        scans = scans - 5
        set_apart(entry, blob, in_hash, facts)
      end
    end
  end
end

-- What is due in one of the sorted sets, in chunks, so that few large messages cannot make one long call.
local function take_due(key)
  local chunk = aged_ms and 500 or 16
  while count < room and bytes < max_bytes and scans > 0 do
    local due = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, math.min(room - count, chunk))
    if #due == 0 then return end
    local blobs = redis.call('HMGET', KEYS[6], unpack(due))
    local facts = redis.call('HMGET', KEYS[7], unpack(due))
    for i, entry in ipairs(due) do
      if bytes >= max_bytes then return end
      if not (aged_ms and entry_ms(entry) > aged_ms) then
        redis.call('ZREM', key, entry)
        local known = read_facts(facts[i])
        if known and known.crashes > 0 and mode == 'work' and known.crashes <= max_crashes then
          scans = scans - 1
          redis.call('ZADD', KEYS[5], now, entry)
        elseif key == KEYS[5] or not blobs[i] or not rejoin(entry) then
          hand_out(entry, blobs[i], known)
        end
      end
    end
    if aged_ms then return end -- one look: what is not old enough stays where it is
    chunk = math.min(chunk * 4, 500)
  end
end

local cursor = m[4] or '0-0'
local cursor_before = cursor
local function take_fresh(most)
  most = math.min(most or room, room)
  local chunk, last = 32, aged_ms and string.format('%.0f', aged_ms) or '+'
  local any_facts, may_be_old = redis.call('EXISTS', KEYS[7]) == 1, retention ~= nil
  while count < most and bytes < max_bytes and scans > 0 do
    local entries = redis.call('XRANGE', KEYS[1], '(' .. cursor, last, 'COUNT', math.min(most - count, chunk))
    if #entries == 0 then return end
    local facts
    if any_facts then
      local names = {}
      for i, found in ipairs(entries) do names[i] = found[1] end
      facts = redis.call('HMGET', KEYS[7], unpack(names))
    end
    for i, found in ipairs(entries) do
      local entry, blob = found[1], found[2][2]
      cursor = entry
      if may_be_old then may_be_old = entry_ms(entry) + retention <= now end -- behind one that is young enough all are
      if may_be_old or (facts and facts[i]) then
        hand_out(entry, blob, facts and read_facts(facts[i]))
      else
        scans = scans - 1
        grant_first(entry, blob)
      end
      if bytes >= max_bytes then break end
    end
    chunk = math.min(chunk * 4, 1000)
    if count > 0 then chunk = math.max(1, math.min(chunk, math.ceil((max_bytes - bytes) * count / bytes))) end
  end
end

-- One message of each group in turn. A group's number counts its turns; who comes anew joins the next round, not the one that is
-- being served: else a round need never end.
local function take_turns()
  redis.call('ZADD', KEYS[14], 'NX', turn + 1, '') -- what came without a group
  while count < room and bytes < max_bytes and scans > 0 do
    local next_up = redis.call('ZRANGE', KEYS[14], 0, 0, 'WITHSCORES')
    if not next_up[1] then break end
    local group, number, before = next_up[1], tonumber(next_up[2]), count
    local most = redis.call('ZCARD', KEYS[14]) == 1 and room - count or 1
    turn = math.max(turn, number)
    scans = scans - 1
    local left
    if group == '' then
      take_fresh(count + most)
      left = count == before + most
    else
      local found = redis.call('ZRANGEBYLEX', KEYS[13], '[' .. group .. ' ', '(' .. group .. '!', 'LIMIT', 0, math.min(most, 100) + 1)
      for at = 1, math.min(#found, most, 100) do
        local entry = string.sub(found[at], #group + 2)
        redis.call('ZREM', KEYS[13], found[at])
        hand_out(entry, redis.call('HGET', KEYS[6], entry), read_facts(redis.call('HGET', KEYS[7], entry)))
        if bytes >= max_bytes then break end
      end
      left = redis.call('ZRANGEBYLEX', KEYS[13], '[' .. group .. ' ', '(' .. group .. '!', 'LIMIT', 0, 1)[1]
    end
    -- Who takes many because nobody else waits has had one turn all the same.
    if left then redis.call('ZADD', KEYS[14], number + math.min(count - before, 1), group) else redis.call('ZREM', KEYS[14], group) end
  end
  if redis.call('ZCARD', KEYS[14]) == 1 then redis.call('ZREM', KEYS[14], '') end
end

if mode == 'alone' then
  take_ended_leases()
  take_due(KEYS[5])
else
  take_ended_leases()
  take_due(KEYS[3])
  take_due(KEYS[4])
  if mode ~= 'work' then take_due(KEYS[5]) end
  if grouped and mode ~= 'aged' and redis.call('EXISTS', KEYS[14]) == 1 then take_turns() else take_fresh() end
end

local fence, changes = tonumber(m[9] or 0), {}
local function set(field, value) changes[#changes + 1], changes[#changes + 2] = field, value end
if cursor ~= cursor_before then set('cursor', cursor) end
if turn ~= tonumber(m[17] or 0) then set('turn', turn) end
if count > 0 then
  fence = fence + 1
  set('fence', fence)
end
if expired > 0 then set('expired', tonumber(m[11] or 0) + expired) end
if dead > 0 then set('dead', tonumber(m[12] or 0) + dead) end
if wake and count < room and m[10] ~= '1' then set('asleep', '1') end
if #changes > 0 then redis.call('HSET', KEYS[8], unpack(changes)) end
for i = 1, #first_seen, 1000 do redis.call('HSET', KEYS[7], unpack(first_seen, i, math.min(i + 999, #first_seen))) end
for i = 1, #granted, 1000 do
  redis.call('ZADD', KEYS[2], unpack(granted, i, math.min(i + 999, #granted)))
  if needs_permit then redis.call('ZADD', KEYS[11], unpack(granted, i, math.min(i + 999, #granted))) end
end

if any_set_apart then redis.call('PUBLISH', ARGV[8], '') end

local next_due
if count < room and wake then
  local sets = mode == 'alone' and { KEYS[5], KEYS[2] } or { KEYS[2], KEYS[3], KEYS[4] }
  for _, key in ipairs(sets) do
    local due = first_score(key)
    if due and (not next_due or due < next_due) then next_due = due end
  end
end
if scans <= 0 then next_due = now end
return answer('ok', next_due, fence)
