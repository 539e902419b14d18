-- Some of the names in a hash whose values may be large: those stay here.
-- KEYS   1 hash
-- ARGV   1 where to go on ('0' = at the beginning)  2 about how many
-- Reply  {where to go on, '0' at the end, bytes of the values passed, name, …}: a name that is there all the time is told at least once
local found = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local out, bytes = { found[1], 0 }, 0
for at = 1, #found[2], 2 do
  out[#out + 1] = found[2][at]
  bytes = bytes + #found[2][at + 1]
end
out[2] = bytes
return out
