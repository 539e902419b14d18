-- Put before the scripts that touch counters. A message's facts are kept only where they are above their usual first
-- value (one receive, no try, no crash): 'receives,tries,crashes,first_receive_ms,sent_ms,culprit'.
local function read_facts(text)
  if not text then return nil end
  local receives, tries, crashes, first, sent, culprit =
    string.match(text, '^(%d+),(%d+),(%d+),(%d+),(%d+),(.*)$')
  -- Damaged: one message's past is forgotten, rather than that it stops its queue.
  if not receives then return { receives = 1, tries = 0, crashes = 0, first = 0, sent = 0, culprit = '' } end
  return { receives = tonumber(receives), tries = tonumber(tries), crashes = tonumber(crashes),
           first = tonumber(first), sent = tonumber(sent), culprit = culprit }
end

local function write_facts(facts)
  return string.format('%d,%d,%d,%.0f,%.0f,%s',
    facts.receives, facts.tries, facts.crashes, facts.first, facts.sent, facts.culprit)
end

-- What holds for a message without facts that has been handed out once.
local function first_facts(first_ms)
  return { receives = 1, tries = 0, crashes = 0, first = first_ms, sent = 0, culprit = '' }
end

local function entry_ms(entry)
  return tonumber(string.match(entry, '^(%d+)'))
end
