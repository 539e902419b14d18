-- Stores messages of one resource: what is due at the end of `ready`, what is delayed in `delayed` and `bodies`.
-- KEYS   1 ready  2 meta  3 tokens  4 delayed  5 bodies  6 facts  7 seen  8 groups  9 order  10 open  11 named
-- ARGV   1 token ('' = not remembered)  2 wake channel  3 seconds a token lives  4 milliseconds an own id is remembered
--        5 'urgent' lets a full server store it (dead letters and destinations), else ''
--        6 'plain': a blob each | 'full': seven values each: blob, delay ms ('' = the resource's), own id, facts, size, group ('' = none),
--        '1': its own id is what its sender asks for its status by; 'full8' by whoever takes it to be split into 8 partitions
--        7 the durability that the caller has made sure of, '' for none  8… the messages
-- Reply  {'stored', first ms, first sequence, the resource's random number}: message i has sequence first + i, stored or recognised as a repeat
--        behind that the number of partitions, where there are several
--        {'unknown'} | {'too_large', row, size, limit} | {'split', partitions}: in another number, so that own ids may belong elsewhere
--        {'durability', what is required, '' for nothing}: not what was made sure of
-- State  -> ready | delayed | in its group's turn
local m = redis.call('HMGET', KEYS[2], 'kind', 'last_ms', 'last_seq', 'asleep', 'delay_ms', 'max_bytes', 'sent', 'nonce', 'turn', 'keep_ms',
  'partitions', 'durability')
if not m[1] then return { 'unknown' } end
if (m[12] or '') ~= ARGV[7] then return { 'durability', m[12] or '' } end
local token, plain = ARGV[1], ARGV[6] == 'plain'
if not plain and string.sub(ARGV[6], 5) ~= (m[11] or '') then return { 'split', m[11] or '1' } end
if token ~= '' then
  local first = redis.call('HGET', KEYS[3], token)
  if first then
    local ms, seq = string.match(first, '^(%d+)-(%d+)$')
    return { 'stored', ms, seq, m[8], m[11] }
  end
end

local first_row, width = 8, plain and 1 or 7
local rows = (#ARGV - first_row + 1) / width
local limit = tonumber(m[6] or -1)
if limit >= 0 then
  for row = 0, rows - 1 do
    local at = first_row + row * width
    local size = plain and #ARGV[at] - 2 or tonumber(ARGV[at + 4])
    if size > limit then return { 'too_large', row, size, limit } end
  end
end

-- Ids are ours, contiguous in a call and rising for ever, also when the clock steps back.
local ms, seq = now, 0
local last_ms, last_seq = tonumber(m[2] or 0), tonumber(m[3] or -1)
if ms <= last_ms then ms, seq = last_ms, last_seq + 1 end
local ms_text = string.format('%.0f', ms)

if ARGV[5] == 'urgent' then redis.call('ZREM', KEYS[4], '') end -- a first write that needs no memory
redis.call('HSET', KEYS[2], 'last_ms', ms_text, 'last_seq', seq + rows - 1,
  'sent', tonumber(m[7] or 0) + rows, 'asleep', '0')
if m[4] == '1' then redis.call('PUBLISH', ARGV[2], '') end

local usual_delay = tonumber(m[5] or 0)
local repeats = 0
local own_ids = 0
for row = 0, rows - 1 do
  local at = first_row + row * width
  local entry = ms_text .. '-' .. (seq + row)
  local delay, own, facts, group = usual_delay, '', '', ''
  if not plain then
    delay = ARGV[at + 1] == '' and usual_delay or tonumber(ARGV[at + 1])
    own, facts, group = ARGV[at + 2], ARGV[at + 3], ARGV[at + 5]
  end
  local repeated = false
  if own ~= '' then
    own_ids = own_ids + 1
    local until_ms = redis.call('ZSCORE', KEYS[7], own)
    repeated = until_ms and tonumber(until_ms) > now
  end
  if repeated then
    repeats = repeats + 1
  else
    if group ~= '' then
      entry = string.format('%s-%09d', ms_text, seq + row) -- of fixed width, so that `order` sorts it
      redis.call('HSET', KEYS[8], entry, group)
    end
    if facts ~= '' then redis.call('HSET', KEYS[6], entry, facts) end
    if delay > 0 then
      redis.call('ZADD', KEYS[4], now + delay, entry) -- first: a body that is in no set would be handed out early
      redis.call('HSET', KEYS[5], entry, ARGV[at])
    elseif group ~= '' then -- takes turns with the other groups; see claim.lua
      redis.call('ZADD', KEYS[10], 'NX', tonumber(m[9] or 0) + 1, group) -- first: what stands in a group that has no turn would not be found
      redis.call('HSET', KEYS[5], entry, ARGV[at])
      redis.call('ZADD', KEYS[9], 0, group .. ' ' .. entry)
    else
      redis.call('XADD', KEYS[1], entry, 'm', ARGV[at])
    end
    if m[10] and not plain and ARGV[at + 6] == '1' then redis.call('HSET', KEYS[11], own, entry) end
    -- Only now: an own id that is known without its message would make the sender's second attempt lose it.
    if own ~= '' then redis.call('ZADD', KEYS[7], now + tonumber(ARGV[4]), own) end
  end
end
if repeats > 0 then redis.call('HINCRBY', KEYS[2], 'sent', -repeats) end
if own_ids > 0 then
  local old = redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', now, 'LIMIT', 0, 2 * own_ids + 8)
  if #old > 0 then redis.call('ZREM', KEYS[7], unpack(old)) end
end
if token ~= '' then
  redis.call('HSET', KEYS[3], token, ms_text .. '-' .. seq)
  if redis.call('HLEN', KEYS[3]) == 1 then redis.call('EXPIRE', KEYS[3], ARGV[3]) end
end
return { 'stored', ms_text, tostring(seq), m[8], m[11] }
