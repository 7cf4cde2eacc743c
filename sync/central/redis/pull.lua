-- Reads one page of a session's log. It writes nothing.
--
-- KEYS[1…3] head, log and checkpoint: see session.lua
-- ARGV[1]   generation that the puller has; empty: it has nothing, and takes any
-- ARGV[2]   the last seq that it has
-- ARGV[3]   bytes after which the page is full; it always has at least one element, if there is any
--
-- Reply: nil if there is no such session, else {generation, seq, digest0, digest1, resync, elements};
-- resync is 1, and there are no elements, if the puller's place is not in this log.

local STEP_LIMIT = 128

local generation, after, room = ARGV[1], tonumber(ARGV[2]), math.max(1, tonumber(ARGV[3]))

local head, problem = read_head()
if problem then
    return redis.error_reply(problem)
end
if not head then
    return false
end

local function reply(resync, elements)
    return {head.generation, head.seq, head.digest0, head.digest1, resync, elements}
end

if (generation ~= '' and generation ~= head.generation) or after > head.seq or after < head.floor then
    return reply(1, {})
end

-- Steps grow from one element on, so that a small page of big changes doesn't read far more than it returns.
local elements, step = {}, 1
local index, last = after - head.floor, head.seq - head.floor - 1
while index <= last and room > 0 do
    local stop = math.min(index + step - 1, last)
    for _, element in ipairs(redis.call('LRANGE', KEYS[2], index, stop)) do
        if room <= 0 then
            break
        end
        elements[#elements + 1] = element
        room = room - #element
    end
    index = stop + 1
    step = math.min(step * 2, STEP_LIMIT)
end
return reply(0, elements)
