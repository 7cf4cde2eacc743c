-- Reads one page of a session's log. It writes nothing.
--
-- KEYS[1…4] head, log, checkpoint and ends: see session.lua
-- ARGV[1]   generation that the puller has; empty: it has nothing, and takes any
-- ARGV[2]   the last seq that it has
-- ARGV[3]   bytes after which the page is full; it always has at least one element, if there is any
-- ARGV[4]   and ARGV[5]: the digest of all that it has; not looked at if it has nothing
--
-- Reply: {generation, seq, digest0, digest1, expires_at, ended, resync, lengths, elements}: the elements of the log one
-- after the other, and how long each is, a big-endian 32-bit number; as a list they would cost the client more than all
-- else. The generation is empty if there is no such session. resync is 1, and there are no elements, if the puller's
-- place is not in this log; ended then tells what became of the life that it has, see `how_ended`.

local STEP_LIMIT = 128

local generation, after, room = ARGV[1], tonumber(ARGV[2]), math.max(1, tonumber(ARGV[3]))
local digest0, digest1 = tonumber(ARGV[4]), tonumber(ARGV[5])

local head, problem = read_head(KEYS[1], KEYS[2], KEYS[3])
if problem then
    return redis.error_reply(problem)
end
if not head then
    return {'', 0, 0, 0, 0, how_ended(KEYS[4], generation), 0, '', ''}
end

local function reply(resync, elements, lengths)
    local ended = generation ~= head.generation and how_ended(KEYS[4], generation) or ''
    return {head.generation, head.seq, head.digest0, head.digest1, head.expires_at, ended, resync,
        table.concat(lengths), table.concat(elements)}
end

-- The digest of the log up to `after`, or nil and the error to reply.
local function digest_there()
    if after == head.seq then
        return head.digest0, head.digest1
    elseif after == head.floor then
        return floor_digest(head)
    end
    local element = redis.call('LINDEX', KEYS[2], after - head.floor - 1) -- it is walked to from the nearer end
    local place = string.find(element, ':', 1, true)
    if not place or #element < place + 8 then
        return nil, string.format('MALFORMED change %.0f in the log: it has no digest', after)
    end
    return struct.unpack('>I4I4', element, place + 1)
end

if after > head.seq or after < head.floor or (generation ~= '' and generation ~= head.generation) then
    return reply(1, {}, {})
end
if generation ~= '' then
    local there0, there1 = digest_there()
    if not there0 then
        return redis.error_reply(there1)
    elseif there0 ~= digest0 or there1 ~= digest1 then
        return reply(1, {}, {})
    end
end

-- Steps grow from one element on, so that a small page of big changes doesn't read far more than it returns.
local elements, lengths, step = {}, {}, 1
local index, last = after - head.floor, head.seq - head.floor - 1
while index <= last and room > 0 do
    local stop = math.min(index + step - 1, last)
    for _, element in ipairs(redis.call('LRANGE', KEYS[2], index, stop)) do
        if room <= 0 then
            break
        end
        elements[#elements + 1], lengths[#lengths + 1] = element, struct.pack('>I4', #element)
        room = room - #element
    end
    index = stop + 1
    step = math.min(step * 2, STEP_LIMIT)
end
return reply(0, elements, lengths)
