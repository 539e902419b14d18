-- Stores messages of a FIFO queue: each behind the others of its group, unless its deduplication id was accepted before.
-- KEYS   1 meta  2 bodies  3 groups  4 order  5 open  6 blocked  7 suspects  8 delayed  9 facts  10, 11 ids accepted in even and in odd periods
-- ARGV   1 wake channel  2 ms a deduplication id is remembered  3 'urgent' lets a full server store it, else ''
--        4 the durability that the caller has made sure of, '' for none
--        5 'plain' or 'full'  6… four values each: blob, group, deduplication id ('' = none), size; with 'full' three more: own id of
--        a relay ('' = none), facts, hash of the body (the deduplication id where the queue goes by content)
-- Reply  {'stored', first ms, first sequence, the queue's random number, row, entry, …}: as send.lua; a row and its entry for each
--        message that repeats one, which is that entry
--        {'unknown'} | {'too_large', row, size, limit} | {'no_id', row}: neither an id nor a queue that goes by content
--        {'durability', what is required, '' for nothing}: not what was made sure of
-- State  -> in its group
-- _facts
local m = redis.call('HMGET', KEYS[1], 'kind', 'last_ms', 'last_seq', 'asleep', 'delay_ms', 'max_bytes', 'sent', 'nonce', 'id_scope',
  'content_ids', 'period', 'durability')
if not m[1] then return { 'unknown' } end
if (m[12] or '') ~= ARGV[4] then return { 'durability', m[12] or '' } end
local full = ARGV[5] == 'full'
local width = full and 7 or 4
local rows, limit = (#ARGV - 5) / width, tonumber(m[6] or -1)
local ids, owns = {}, {}
for row = 0, rows - 1 do
  local at = 6 + row * width
  local size = tonumber(ARGV[at + 3])
  if limit >= 0 and size > limit then return { 'too_large', row, size, limit } end
  ids[row], owns[row] = ARGV[at + 2], full and ARGV[at + 4] or ''
  if ids[row] == '' and owns[row] == '' then
    if m[10] ~= '1' then return { 'no_id', row } end
    ids[row] = ARGV[at + 6]
  end
end

local ms, seq = now, 0
local last_ms, last_seq = tonumber(m[2] or 0), tonumber(m[3] or -1)
if ms <= last_ms then ms, seq = last_ms, last_seq + 1 end
if seq + rows > 2097152 then ms, seq = ms + 1, 0 end -- sequence numbers have room for so many in a millisecond

-- Under which name a message's id is remembered, and which it would have under the other scope: an id that was accepted before the
-- scope was changed still counts. What a relay brings is known by the relay's id alone.
local name_of, other_of, asked, n = {}, {}, {}, 0
for row = 0, rows - 1 do
  local own, id = owns[row], ids[row]
  if own ~= '' then
    name_of[row] = own
  else
    local in_queue, in_group = 'i ' .. id, 'g ' .. ARGV[7 + row * width] .. ' ' .. id
    if m[9] == 'group' then in_queue, in_group = in_group, in_queue end
    name_of[row], other_of[row] = in_queue, in_group
    n = n + 1
    asked[n] = in_group
  end
  n = n + 1
  asked[n] = name_of[row]
end
-- An id is kept with the time until which it counts and the entry, in the hash of its period. After the next period nothing of that
-- counts any more, so a period begins with an empty hash.
local memory_ms = tonumber(ARGV[2])
local period = math.max(math.floor(now / memory_ms), tonumber(m[11] or 0))
local this_hash, last_hash = KEYS[10 + period % 2], KEYS[10 + (period + 1) % 2]
local remembered = {} -- name -> entry
for _, hash in ipairs({ this_hash, last_hash }) do
  for i, kept in ipairs(redis.call('EXISTS', hash) == 1 and redis.call('HMGET', hash, unpack(asked)) or {}) do
    if kept then
      local until_ms, entry = string.match(kept, '^(%d+) (.*)$')
      if tonumber(until_ms) > now then remembered[asked[i]] = entry end
    end
  end
end

if ARGV[3] == 'urgent' then redis.call('ZREM', KEYS[8], '') end -- a first write that needs no memory
local ms_text = string.format('%.0f', ms)
local out, stored = { 'stored', ms_text, tostring(seq), m[8] }, 0
local bodies, groups, order, facts, delayed, accepted, senders = {}, {}, {}, {}, {}, {}, {}
local until_text, delays, is_sender = string.format('%.0f ', now + memory_ms), tonumber(m[5] or 0) > 0, {}
for row = 0, rows - 1 do
  local at = 6 + row * width
  local group, name = ARGV[at + 1], name_of[row]
  local entry = remembered[name] or remembered[other_of[row]]
  if entry then
    out[#out + 1], out[#out + 2] = row, entry
  else
    entry = ms_text .. string.format('-%09d', seq + row)
    local first, second = 2 * stored + 1, 2 * stored + 2
    bodies[first], bodies[second] = entry, ARGV[at]
    groups[first], groups[second] = entry, group
    order[first], order[second] = 0, group .. ' ' .. entry
    accepted[first], accepted[second] = name, until_text .. entry
    if full and ARGV[at + 5] ~= '' then facts[#facts + 1], facts[#facts + 2] = entry, ARGV[at + 5] end
    if delays then delayed[first], delayed[second] = ms_text, entry end
    if not is_sender[group] then is_sender[group], senders[#senders + 1] = true, group end
    remembered[name] = entry
    stored = stored + 1
  end
end
local function write(command, key, values)
  if #values > 0 then redis.call(command, key, unpack(values)) end
end
if stored > 0 then redis.call('HSET', KEYS[1], 'last_ms', ms_text, 'last_seq', seq + rows - 1) end
if #senders > 0 then -- what is blocked or set apart stays so; first, as messages of a group in no set would not be found
  local blocked = redis.call('ZMSCORE', KEYS[6], unpack(senders))
  local suspects = redis.call('EXISTS', KEYS[7]) == 1 and redis.call('ZMSCORE', KEYS[7], unpack(senders)) or {}
  local open = {}
  for i, group in ipairs(senders) do
    if not blocked[i] and not suspects[i] then open[#open + 1], open[#open + 2] = ms_text, group end
  end
  if #open > 0 then redis.call('ZADD', KEYS[5], 'NX', unpack(open)) end
end
write('HSET', KEYS[9], facts)
write('HSET', KEYS[3], groups) -- before the bodies: one without a group could not be given its place again
write('HSET', KEYS[2], bodies)
write('ZADD', KEYS[4], order)
write('ZADD', KEYS[8], delayed)
-- Only now: an id that is known without its message would make the sender's second attempt lose it.
if stored > 0 and tostring(period) ~= m[11] then
  redis.call('UNLINK', this_hash)
  redis.call('HSET', KEYS[1], 'period', period)
end
write('HSET', this_hash, accepted)
if stored > 0 then redis.call('HSET', KEYS[1], 'sent', tonumber(m[7] or 0) + stored) end
if stored > 0 and m[4] == '1' then
  redis.call('HSET', KEYS[1], 'asleep', '0')
  redis.call('PUBLISH', ARGV[1], '')
end
return out
