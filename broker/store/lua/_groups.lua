-- Put before the scripts of FIFO queues. A group's messages stand in `order` as '<group> <entry>', all with score 0, so
-- that they are sorted by group, then by entry (entries of FIFO queues have fixed width). A group that has messages is in exactly
-- one set: in `open` by the time of its head, in `blocked` by when its head may be looked at again, in `suspects` when its head
-- took a worker with it. What is in `blocked` may be free earlier than its score says only if the script that freed it says so.
local function groups_of()
  local keys = { bodies = KEYS[2], groups = KEYS[3], order = KEYS[4], open = KEYS[5], blocked = KEYS[6], suspects = KEYS[7],
    leases = KEYS[8], holders = KEYS[9], waiting = KEYS[10], facts = KEYS[11], notes = KEYS[12] } -- of every script of FIFO queues
  local self = { some_wait = redis.call('EXISTS', keys.waiting) == 1, some_suspects = redis.call('EXISTS', keys.suspects) == 1 }

  -- The first n entries of a group, or those after one.
  function self.entries(group, n, after)
    local from = after and '(' .. group .. ' ' .. after or '[' .. group .. ' '
    local found = redis.call('ZRANGEBYLEX', keys.order, from, '(' .. group .. '!', 'LIMIT', 0, n)
    for i, member in ipairs(found) do found[i] = string.sub(member, #group + 2) end
    return found
  end

  -- Until when an entry is hidden, leased or waiting; nil where it is not. Also the token of its last lease.
  function self.hidden(entry)
    local token = redis.call('HGET', keys.holders, entry)
    local until_ms = token and redis.call('ZSCORE', keys.leases, entry .. '|' .. token)
      or self.some_wait and redis.call('ZSCORE', keys.waiting, entry)
    until_ms = until_ms and tonumber(until_ms)
    return until_ms and until_ms > now and until_ms or nil, token
  end

  -- Whether a lease that has ended stands for nothing any more: its group's head is in other hands, or in none. What is behind a
  -- message that was handed out again must not be ended, or run on, by whoever had it before.
  local heads = {}
  function self.taken_over(member)
    local entry, token = string.match(member, '^(.-)|(.*)$')
    local group = redis.call('HGET', keys.groups, entry)
    if not group then return true end
    if heads[group] == nil then
      local head = self.entries(group, 1)[1]
      heads[group] = head and redis.call('HGET', keys.holders, head) or ''
    end
    return heads[group] ~= token
  end

  -- Puts a group where its head says. Answers the ms of its head where it is open now, or nil and until when it is blocked.
  function self.place(group)
    local head = self.entries(group, 1)[1]
    if not head then
      redis.call('ZREM', keys.open, group)
      redis.call('ZREM', keys.blocked, group)
      if self.some_suspects then redis.call('ZREM', keys.suspects, group) end
      return nil
    end
    local until_ms = self.hidden(head)
    if until_ms then
      redis.call('ZADD', keys.blocked, until_ms, group)
      redis.call('ZREM', keys.open, group)
    else
      redis.call('ZADD', keys.open, entry_ms(head), group)
      redis.call('ZREM', keys.blocked, group)
    end
    if self.some_suspects then redis.call('ZREM', keys.suspects, group) end
    if until_ms then return nil, until_ms end
    return entry_ms(head)
  end

  -- Takes messages out of everything: entries, and their names in `order`. The bodies go first: what is left without one is cleared
  -- away by the repair.
  function self.forget_all(entries, names)
    if #entries == 0 then return end
    redis.call('HDEL', keys.bodies, unpack(entries))
    redis.call('ZREM', keys.order, unpack(names))
    if self.some_wait then redis.call('ZREM', keys.waiting, unpack(entries)) end
    redis.call('HDEL', keys.holders, unpack(entries))
    redis.call('HDEL', keys.groups, unpack(entries))
    redis.call('HDEL', keys.notes, unpack(entries))
    redis.call('HDEL', keys.facts, unpack(entries)) -- last: a message without its facts would start anew
  end

  function self.forget(entry, group)
    self.forget_all({ entry }, { group .. ' ' .. entry })
  end

  return self
end

-- Tells whoever sleeps that something can be handed out.
local function wake(meta, channel)
  if redis.call('HGET', meta, 'asleep') == '1' then
    redis.call('PUBLISH', channel, '')
    redis.call('HSET', meta, 'asleep', '0')
  end
end
