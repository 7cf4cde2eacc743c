-- Tells where a session's log ends. It writes nothing.
--
-- KEYS[1…3]  head, log and checkpoint: see session.lua
--
-- Reply: nil if there is no such session, else {generation, seq, digest0, digest1}

local head, problem = read_head()
if problem then
    return redis.error_reply(problem)
end
if not head then
    return false
end
return {head.generation, head.seq, head.digest0, head.digest1}
