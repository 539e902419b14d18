-- Put before the scripts that write how events ended. Ends stand in two hashes by turns: when one has been written for as long as an
-- end is to be kept, nothing in the other counts any more; that one is thrown away in one step, and written next.
-- An end is '<letter><ms, 11 hex digits><tries>', then '+<result>' | '-<error>' where one is kept, or '!': too large to be kept.
-- Its name is the event's entry, or '=' and the caller's own id.
local function ends_of(meta, hashes, turn, keep_ms)
  local since, which = string.match(turn or '', '^(%d+) ([12])$')
  if since and tonumber(since) + keep_ms > now then return hashes[tonumber(which)] end
  which = which == '1' and 2 or 1
  redis.call('UNLINK', hashes[which])
  redis.call('HSET', meta, 'ended_turn', string.format('%.0f %d', now, which))
  return hashes[which]
end

local function end_stamp() return string.format('%011x', now) end

-- A caller's own id names its newest event, as long as there is one.
local function drop_name(named, own, entry)
  if redis.call('HGET', named, own) == entry then redis.call('HDEL', named, own) end
end

-- Tells those who wait for one of these ends: name, end, name, end, …
local function tell_ended(awaited, channel, ends)
  if redis.call('EXISTS', awaited) == 0 then return end
  redis.call('ZREMRANGEBYSCORE', awaited, '-inf', now)
  local names = {}
  for at = 1, #ends, 2 do names[#names + 1] = ends[at] end
  for i, until_ms in ipairs(redis.call('ZMSCORE', awaited, unpack(names))) do
    if until_ms then
      redis.call('PUBLISH', channel, names[i])
      redis.call('ZREM', awaited, names[i])
    end
  end
end

-- Whether an entry comes after what has been claimed once.
local function is_behind(cursor, entry)
  local ms, seq = string.match(entry, '^(%d+)-(%d+)$')
  local last_ms, last_seq = string.match(cursor, '^(%d+)-(%d+)$')
  ms, seq, last_ms, last_seq = tonumber(ms), tonumber(seq), tonumber(last_ms), tonumber(last_seq)
  return ms > last_ms or (ms == last_ms and seq > last_seq)
end
