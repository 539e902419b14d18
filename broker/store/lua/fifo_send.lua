-- Stores messages of a FIFO queue: each behind the others of its group, unless its deduplication id was accepted before.
-- KEYS   1 meta  2 bodies  3 groups  4 order  5 open  6 blocked  7 suspects  8 delayed  9 facts  10, 11 ids accepted in even and in odd periods
-- ARGV   1 wake channel  2 ms a deduplication id is remembered  3 'urgent' lets a full server store it, else ''
--        4 the durability that the caller has made sure of, '' for none
--        5 'plain' or 'full'  6 n  7 the size of the largest  8 its row  9… n blobs  … their n groups  … n deduplication ids ('' = none);
--        with 'full' also n own ids of a relay ('' = none), n facts, n hashes of the body (the deduplication id where the queue goes by
--        content). As few values a message as will do: to take one in costs a third of what it costs to store one.
-- Reply  {'stored', first ms, first sequence, the queue's random number, row, entry, …}: as send.lua; a row and its entry for each
--        message that repeats one, which is that entry
--        {'unknown'} | {'too_large', row, size, limit} | {'no_id', row}: neither an id nor a queue that goes by content
--        {'durability', what is required, '' for nothing}: not what was made sure of
-- State  -> in its group
-- _facts
local m = redis.call('HMGET', KEYS[1], 'kind', 'last_ms', 'last_seq', 'asleep', 'delay_ms', 'max_bytes', 'sent', 'nonce', 'id_scope',
  'content_ids', 'period', 'durability', 'revision', 'ids_since')
if not m[1] then return { 'unknown' } end
if (m[12] or '') ~= ARGV[4] then return { 'durability', m[12] or '' } end
local given, full, n = ARGV, ARGV[5] == 'full', tonumber(ARGV[6]) -- looking up a global name costs each time
local largest, limit = tonumber(ARGV[7]), tonumber(m[6] or -1)
if limit >= 0 and largest > limit then return { 'too_large', tonumber(ARGV[8]), largest, limit } end
local blob_at, group_at, id_at, own_at, facts_at, hash_at = 8, 8 + n, 8 + 2 * n, 8 + 3 * n, 8 + 4 * n, 8 + 5 * n

local ms, seq = now, 0
local last_ms, last_seq = tonumber(m[2] or 0), tonumber(m[3] or -1)
if ms <= last_ms then ms, seq = last_ms, last_seq + 1 end
if seq + n > 2097152 then ms, seq = ms + 1, 0 end -- sequence numbers have room for so many in a millisecond

-- An id is kept with the time until which it counts and the entry, in the hash of its period. After the next period nothing of that
-- counts any more, so a period begins with an empty hash.
local memory_ms = tonumber(ARGV[2])
local period = math.max(math.floor(now / memory_ms), tonumber(m[11] or 0))
local this_hash, last_hash = KEYS[10 + period % 2], KEYS[10 + (period + 1) % 2]
-- An id that was accepted before the scope was changed still counts, so it is looked for under the name that it has under the other
-- scope, too; not where all ids of both periods came under these settings: `ids_since` has a revision and a period after which no
-- id came under an older one. Of revisions, as a sender of an older release knows only these.
local revision = m[13] or '0'
local since, of_revision = string.match(m[14] or '', '^(%d+) (%d+)$')
local known_since = of_revision == revision
local one_scope = not m[11] or (known_since and tonumber(since) < period - 1)

-- Under which name a message's id is remembered. What a relay brings is known by the relay's id alone.
local name_of, other_of = {}, {}
local by_group = m[9] == 'group'
for i = 1, n do
  local own, id = full and given[own_at + i] or '', given[id_at + i]
  if own == '' and id == '' then
    if m[10] ~= '1' then return { 'no_id', i - 1 } end
    id = given[hash_at + i]
  end
  if own ~= '' then
    name_of[i], other_of[i] = own, own
  elseif one_scope then
    name_of[i] = by_group and 'g ' .. given[group_at + i] .. ' ' .. id or 'i ' .. id
  else
    local in_queue, in_group = 'i ' .. id, 'g ' .. given[group_at + i] .. ' ' .. id
    if by_group then in_queue, in_group = in_group, in_queue end
    name_of[i], other_of[i] = in_queue, in_group
  end
end
local remembered = {} -- name -> entry
local function recall(names)
  for _, hash in ipairs({ this_hash, last_hash }) do
    for i, kept in ipairs(redis.call('EXISTS', hash) == 1 and redis.call('HMGET', hash, unpack(names)) or {}) do
      if kept then
        local until_ms, entry = string.match(kept, '^(%d+) (.*)$')
        if tonumber(until_ms) > now then remembered[names[i]] = entry end
      end
    end
  end
end
recall(name_of)
if not one_scope then recall(other_of) end

if ARGV[3] == 'urgent' then redis.call('ZREM', KEYS[8], '') end -- a first write that needs no memory
local ms_text = string.format('%.0f', ms)
local out, stored = { 'stored', ms_text, tostring(seq), m[8] }, 0
local bodies, groups, order, facts, delayed, accepted, senders = {}, {}, {}, {}, {}, {}, {}
local entry_form, format = ms_text .. '-%09d', string.format
local until_text, delays, is_sender = format('%.0f ', now + memory_ms), tonumber(m[5] or 0) > 0, {}
for i = 1, n do
  local group, name = given[group_at + i], name_of[i]
  local entry = remembered[name] or (not one_scope and remembered[other_of[i]])
  if entry then
    out[#out + 1], out[#out + 2] = i - 1, entry
  else
    entry = format(entry_form, seq + i - 1)
    local first, second = 2 * stored + 1, 2 * stored + 2
    bodies[first], bodies[second] = entry, given[blob_at + i]
    groups[first], groups[second] = entry, group
    order[first], order[second] = '0', group .. ' ' .. entry -- as text: numbers are formatted anew for every call
    accepted[first], accepted[second] = name, until_text .. entry
    if full and given[facts_at + i] ~= '' then facts[#facts + 1], facts[#facts + 2] = entry, given[facts_at + i] end
    if delays then delayed[first], delayed[second] = ms_text, entry end
    if not is_sender[group] then is_sender[group], senders[#senders + 1] = true, group end
    remembered[name] = entry
    stored = stored + 1
  end
end
local function write(command, key, values)
  if #values > 0 then redis.call(command, key, unpack(values)) end
end
if stored > 0 then redis.call('HSET', KEYS[1], 'last_ms', ms_text, 'last_seq', seq + n - 1) end
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
if stored > 0 and not known_since then
  redis.call('HSET', KEYS[1], 'ids_since', string.format('%d %s', m[11] and period or 0, revision))
end
write('HSET', this_hash, accepted)
if stored > 0 then redis.call('HSET', KEYS[1], 'sent', tonumber(m[7] or 0) + stored) end
if stored > 0 and m[4] == '1' then
  redis.call('HSET', KEYS[1], 'asleep', '0')
  redis.call('PUBLISH', ARGV[1], '')
end
return out
