-- Tells where the logs of some sessions end. It writes nothing.
--
-- KEYS  head, log and checkpoint of each session, one session after the other: see session.lua
--
-- Reply: for each session nil if there is none, else {generation, seq, digest0, digest1}, or an error that is its own.
--
-- The server does nothing else meanwhile, so not too many sessions at once. On a cluster all keys of a script must be in
-- one slot, and those of a session are: who calls it there would have to group the sessions by slot.

local replies = {}

for first = 1, #KEYS, 3 do
    -- A command fails where a key is of another type: that is an error of this session, not of all.
    local done, head, problem = pcall(read_head, KEYS[first], KEYS[first + 1], KEYS[first + 2])
    if not done then
        problem = head.err or head -- text before Redis 7
    end
    local reply = false
    if problem then
        reply = redis.error_reply(problem)
    elseif head then
        reply = {head.generation, head.seq, head.digest0, head.digest1}
    end
    replies[#replies + 1] = reply
end
return replies
