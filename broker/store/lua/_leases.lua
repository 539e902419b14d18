-- Put before the scripts that give back what a claim has leased. Looks through one page of the leases, those behind the given score
-- and member ('' = from the first), and calls `release` with member and entry of each that is the token's.
-- Answers {released, leases seen, score, member}: where the next page begins, whatever is settled or renewed meanwhile.
local function release_page(leases, token, size, score, last, release)
  local start, released = 0, 0
  if score ~= '' then
    if redis.call('ZSCORE', leases, last) == score then
      start = redis.call('ZRANK', leases, last) + 1
    else -- settled or renewed since: whatever has its score is looked at again, as nothing may be passed over
      start = redis.call('ZCOUNT', leases, '-inf', '(' .. score)
    end
  end
  local page = redis.call('ZRANGE', leases, start, start + tonumber(size) - 1, 'WITHSCORES')
  for i = 1, #page, 2 do
    local member = page[i]
    local entry, holder = string.match(member, '^(.-)|(.*)$')
    if holder == token then
      release(member, entry)
      released = released + 1
    else
      last, score = member, page[i + 1]
    end
  end
  return { released, #page / 2, score, last }
end
