-- Starts a move task on a queue, where none runs. A task is kept as
-- '<status>,<number>,<started ms>,<ms of the newest entry>,<counter of moved at its start>,<messages at its start>,
-- <moved, once it has ended>,<reason>\n<JSON>', without this break.
-- KEYS   1 meta  2 moves: tasks by id; '-count', '-running' (id), '-owner' and '-until' (of whoever runs it)
-- ARGV   1 id  2 JSON  3 messages at the start  4 channel that is told  5 what it is told
-- Reply  {'started', counter of moved, task}, also when this id was started before | {'busy'} | {'unknown'}
local m = redis.call('HMGET', KEYS[1], 'kind', 'moved', 'last_ms')
if not m[1] then return { 'unknown' } end
local s = redis.call('HMGET', KEYS[2], ARGV[1], '-running', '-count')
if s[1] then return { 'started', m[2] or '0', s[1] } end
if s[2] and s[2] ~= '' then return { 'busy' } end
redis.call('HDEL', KEYS[2], '') -- a first write that needs no memory
local number = tonumber(s[3] or 0) + 1
local task = string.format('RUNNING,%d,%.0f,%.0f,%s,%s,,\n', number, now, tonumber(m[3]) or now, m[2] or '0', ARGV[3]) .. ARGV[2]
redis.call('HSET', KEYS[2], ARGV[1], task, '-running', ARGV[1], '-count', number, '-owner', '')
redis.call('PUBLISH', ARGV[4], ARGV[5])
return { 'started', m[2] or '0', task }
