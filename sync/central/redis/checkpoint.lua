-- Reads the checkpoint of a session. It writes nothing.
--
-- KEYS[1…4]  head, log, checkpoint and ends: see session.lua
--
-- Reply: nil if there is none, else {generation, seq, digest0, digest1, data}.

local head, problem = read_head(KEYS[1], KEYS[2], KEYS[3])
if problem then
    return redis.error_reply(problem)
end
if not head or head.floor == 0 then
    return false
end
local digest0, digest1 = floor_digest(head)
if not digest0 then
    return redis.error_reply(digest1)
end
return {head.generation, head.floor, digest0, digest1, redis.call('GET', KEYS[3])}
