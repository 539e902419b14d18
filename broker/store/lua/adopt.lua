-- Gives one partition, other than the first, the settings of the first one; makes it where it is missing.
-- KEYS   1 meta  2 when this partition was deleted (whose: the resource's random number)  3… its other keys
-- ARGV   1 the resource's random number  2 the partition's mark  3 revision of the settings  4 wake channel
--        5… field, value pairs of the first partition's meta that all have
-- Reply  1 adopted | 0 it has these settings, or newer ones | -1 it was deleted, with the resource that had this number
-- State  what another resource of this name has left behind -> gone
if redis.call('GET', KEYS[2]) == ARGV[1] then return -1 end
local m = redis.call('HMGET', KEYS[1], 'kind', 'nonce', 'revision', 'adopted')
local same = m[2] == ARGV[2]
if m[1] and same and tonumber(m[3]) >= tonumber(ARGV[3]) then return 0 end
redis.call('HDEL', KEYS[1], '') -- a first write that needs no memory
if not same then redis.call('UNLINK', KEYS[1], unpack(KEYS, 3)) end
local given, fields, names = {}, { 'nonce', ARGV[2], 'revision', ARGV[3], 'starved', '0', 'asleep', '0' }, {}
for at = 5, #ARGV, 2 do
  given[ARGV[at]] = true
  names[#names + 1] = ARGV[at]
  fields[#fields + 1], fields[#fields + 2] = ARGV[at], ARGV[at + 1]
end
fields[#fields + 1], fields[#fields + 2] = 'adopted', table.concat(names, ' ')
for name in string.gmatch(same and m[4] or '', '%S+') do
  if not given[name] then redis.call('HDEL', KEYS[1], name) end
end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('PUBLISH', ARGV[4], 'settings')
return 1
