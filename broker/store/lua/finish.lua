-- Ends messages for good: succeeded, given up, deleted. What is to be sent on because of it is written here, in the same
-- step, to the resource's own outbox.
-- KEYS   1 ready  2 leases  3 bodies  4 facts  5 notes  6 meta  7 outbox  8 outgoing  9 permits  10 groups  11, 12 ends, by turns
--        13 named  14 awaited
-- ARGV   1 wake channel  2 counter of meta to raise ('+' behind it: permits stay taken)  3 n  4 channel of ends  5 number of ends told
--        6… n lease members  … their n entries, then four values for each end: index of its member (1…n), own id ('' = none), letter,
--        the rest; then three values for each thing to send: index of its member, suffix of its name, record
--        Where ends are kept, what is 'done' and is told no end succeeded at its first try.
-- Reply  {finished, index, 'fenced' | 'unknown', …}: members whose lease is not theirs any more; nothing was done for them
--        {-1}: no such resource
-- State  leased -> gone (+ outbox)
local n = tonumber(ARGV[3])
local counter, keeps_permits = string.match(ARGV[2], '^(%l*)(%+?)$')
local told_from = 6 + 2 * n
local onward_from = told_from + 4 * tonumber(ARGV[5])
local m = redis.call('HMGET', KEYS[6], 'kind', 'starved', 'keep_ms', 'ended_turn')
if not m[1] then return { -1 } end
if n < 1 then return { 0 } end
redis.call('ZREM', KEYS[2], '') -- a first write that needs no memory
local scores = redis.call('ZMSCORE', KEYS[2], unpack(ARGV, 6, 5 + n))
local members, entries, refused = {}, {}, {}
for i = 1, n do
  if scores[i] then
    members[#members + 1], entries[#entries + 1] = ARGV[5 + i], ARGV[5 + n + i]
  else
    local entry = ARGV[5 + n + i]
    local alive = redis.call('HEXISTS', KEYS[3], entry) == 1 or #redis.call('XRANGE', KEYS[1], entry, entry) > 0
    refused[#refused + 1], refused[#refused + 2] = i, alive and 'fenced' or 'unknown'
  end
end
-- Before the bodies go: what a broken-off script leaves behind runs again, and ends anew.
local function keep_ends()
  local stamp = end_stamp()
  local usual, fields, count = 'S' .. stamp .. '1', {}, 0
  if onward_from == told_from and counter == 'done' then
    for i, entry in ipairs(entries) do fields[2 * i - 1], fields[2 * i] = entry, usual end
    count = #entries
  else
    local told = {}
    for at = told_from, onward_from - 1, 4 do told[tonumber(ARGV[at])] = at end
    for i = 1, n do
      local at = told[i]
      if scores[i] and (at or counter == 'done') then
        local name, text = ARGV[5 + n + i], usual
        if at then
          text = ARGV[at + 2] .. stamp .. ARGV[at + 3]
          if ARGV[at + 1] ~= '' then
            drop_name(KEYS[13], ARGV[at + 1], name)
            name = '=' .. ARGV[at + 1]
          end
        end
        count = count + 1
        fields[2 * count - 1], fields[2 * count] = name, text
      end
    end
  end
  if count == 0 then return end
  redis.call('HSET', ends_of(KEYS[6], { KEYS[11], KEYS[12] }, m[4], tonumber(m[3])), unpack(fields))
  tell_ended(KEYS[14], ARGV[4], fields)
end

-- XDEL looks for each entry from the beginning of its node, past all that were there. But what was claimed together stands mostly in a
-- row at the very front of the stream, when it ends: that goes in one step. Large messages have nodes of their own.
local function leave_stream()
  local head = #entries >= 16 and redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  local gone = 0
  if head and #head[2][2] < 1024 then
    local following, ms, seq = head[1], nil, nil -- the only entry that may come next in the row
    while following == entries[gone + 1] do
      gone = gone + 1
      if not ms then ms, seq = string.match(following, '^(%d+)-(%d+)$') end
      seq = seq + 1
      following = ms .. '-' .. seq
      if entries[gone + 1] ~= following and gone < #entries then -- the next may be of a later millisecond
        local found = redis.call('XRANGE', KEYS[1], following, '+', 'COUNT', 1)[1]
        if found and found[1] == entries[gone + 1] then following, ms = found[1], nil end
      end
    end
    if gone > 0 then redis.call('XTRIM', KEYS[1], 'MINID', following) end
  end
  if gone < #entries then redis.call('XDEL', KEYS[1], unpack(entries, gone + 1)) end
end

local finished = 0
if #members > 0 then
  finished = redis.call('ZREM', KEYS[2], unpack(members))
  for at = onward_from, #ARGV, 3 do
    local index = tonumber(ARGV[at])
    if scores[index] then
      local name = ARGV[5 + n + index] .. ':' .. ARGV[at + 1]
      redis.call('ZADD', KEYS[7], now, name) -- before its record: a name without one is dropped, the reverse stays
      redis.call('HSET', KEYS[8], name, ARGV[at + 2])
    end
  end
  if m[3] then
    keep_ends()
  elseif m[4] then
    redis.call('UNLINK', KEYS[11], KEYS[12], KEYS[13])
    redis.call('HDEL', KEYS[6], 'ended_turn')
  end
  if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('HDEL', KEYS[3], unpack(entries)) end
  leave_stream()
  for _, key in ipairs({ KEYS[10], KEYS[5], KEYS[4] }) do -- last: a message without its facts would start anew
    if redis.call('EXISTS', key) == 1 then redis.call('HDEL', key, unpack(entries)) end
  end
  redis.call('HINCRBY', KEYS[6], counter, finished)
end
if keeps_permits == '' and redis.call('EXISTS', KEYS[9]) == 1 then redis.call('ZREM', KEYS[9], unpack(ARGV, 6, 5 + n)) end
if m[2] == '1' then
  redis.call('PUBLISH', ARGV[1], '')
  redis.call('HSET', KEYS[6], 'starved', '0')
end
return { finished, unpack(refused) }
