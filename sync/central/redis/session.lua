-- What every script on sessions begins with; put in front of the others when they are loaded. It writes nothing.
--
-- The keys of a session, in this order; a script on one session has them as KEYS[1…3]:
--
-- 1        head of the session, a hash: generation, seq, digest0, digest1, floor, admitted_at, acked:<origin>, …
-- 2        log of the session, a list: one element for each change after `floor`, "<admitted_at>:<digest><wire bytes>";
--          the digest is that of the log up to this change: two big-endian 32-bit numbers
-- 3        checkpoint of the session, a string: stands for all changes up to `floor`; there unless `floor` is 0

local LANE_LIMIT = 2147483648 -- above both digest primes
local FIELDS = {'generation', 'seq', 'digest0', 'digest1', 'floor', 'admitted_at'}

-- The number in decimal digits, or nil. Fifteen digits are below 2^53, where a double is still exact.
local function number(text)
    if text and #text <= 15 and string.find(text, '^%d+$') then
        return tonumber(text)
    end
    return nil
end

-- The server's clock, Unix milliseconds.
local function clock()
    local time = redis.call('TIME')
    return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Eviction can take one key and leave another. A part of a session is a lost session: replicas seed it again.
local function is_whole(head, log_key, checkpoint_key)
    return redis.call('LLEN', log_key) == head.seq - head.floor
        and (head.floor == 0 or redis.call('EXISTS', checkpoint_key) == 1)
end

-- The head as a table, nil if there is no such session; then the error to reply, if the head makes no sense.
local function read_head(head_key, log_key, checkpoint_key)
    local values = redis.call('HMGET', head_key, unpack(FIELDS))
    local head, found = {}, 0
    for i, field in ipairs(FIELDS) do
        found = found + (values[i] and 1 or 0)
        head[field] = field == 'generation' and values[i] or number(values[i])
    end
    if found == 0 then
        return nil
    end
    for _, field in ipairs(FIELDS) do
        if not head[field] then
            return nil, 'MALFORMED field ' .. field .. ' of the session\'s head'
        end
    end
    if head.digest0 >= LANE_LIMIT or head.digest1 >= LANE_LIMIT then
        return nil, 'MALFORMED digest in the session\'s head'
    end
    return is_whole(head, log_key, checkpoint_key) and head or nil
end

-- The digest of the log up to its floor, or nil and the error to reply.
local function floor_digest(head)
    if head.floor == 0 then
        return 0, 0
    end
    local values = redis.call('HMGET', KEYS[1], 'floor_digest0', 'floor_digest1')
    local digest0, digest1 = number(values[1]), number(values[2])
    if not digest0 or not digest1 then
        return nil, 'MALFORMED digest of the floor in the session\'s head'
    end
    return digest0, digest1
end

