-- Deletes a session, if it is there in the life that is named, and remembers that.
--
-- KEYS[1…4] head, log, checkpoint and ends: see session.lua
-- ARGV[1]   generation that is deleted; empty: whichever is there
-- ARGV[2]   milliseconds for which that is remembered
-- ARGV[3]   channel for hints
-- ARGV[4]   session id, for the hint: JSON [session id, '', 0]
--
-- Reply: 1 if the session was there and is deleted, else 0.

local generation = ARGV[1]
local forget_at = clock() + tonumber(ARGV[2])

-- A head that makes no sense is deleted, too.
local found = redis.call('HGET', KEYS[1], 'generation')
local there = found and (generation == '' or generation == found)
if generation ~= '' then
    note_end(KEYS[4], generation, 'd', forget_at, forget_at)
end
if not there then
    return 0
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
note_end(KEYS[4], found, 'd', forget_at, forget_at)
tidy_ends(KEYS[4])
-- Only a hint: a user without rights to the channel can still do this.
redis.pcall('PUBLISH', ARGV[3], cjson.encode({ARGV[4], '', 0}))
return 1
