-- What every script on sessions begins with; put in front of the others when they are loaded. It writes nothing.
--
-- The keys of a session, in this order; a script on one session has them as KEYS[1…4]:
--
-- 1        head of the session, a hash: generation, seq, digest0, digest1, floor, admitted_at, acked:<origin>, …; and if
--          it expires, ttl and expires_at
-- 2        log of the session, a list: one element for each change after `floor`, "<admitted_at>:<digest><wire bytes>";
--          the digest is that of the log up to this change: two big-endian 32-bit numbers
-- 3        checkpoint of the session, a string: stands for all changes up to `floor`; there unless `floor` is 0
-- 4        how lives of the session ended, a hash: generation -> 'd<time>', deleted, to be forgotten then; or 'e<time>',
--          expired then, or, of the life that is there, expires then
--
-- The first three expire together. That the server removes them late, or a clock steps back, changes nothing: see
-- `read_head`.

local LANE_LIMIT = 2147483648 -- above both digest primes
local FIELDS = {'generation', 'seq', 'digest0', 'digest1', 'floor', 'admitted_at'}
local KEEP_ENDED = 30 * 86400000
local MOST_ENDED = 100 -- lives whose end is remembered, the last ones

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
    local lifetime = redis.call('HMGET', head_key, 'ttl', 'expires_at')
    head.ttl, head.expires_at = number(lifetime[1] or '0'), number(lifetime[2] or '0')
    if not head.ttl or not head.expires_at then
        return nil, 'MALFORMED lifetime in the session\'s head'
    end
    if head.expires_at > 0 and head.expires_at <= clock() then
        return nil
    end
    return is_whole(head, log_key, checkpoint_key) and head or nil
end

-- Have the server remove a key when a session expires: it keeps keys through the millisecond that it is told.
local function expire(key, expires_at)
    redis.call('PEXPIREAT', key, string.format('%.0f', expires_at - 1))
end

-- How a life ended that is not there: 'expired', 'deleted', or '' if that is not known.
local function how_ended(past_key, generation)
    local how, time = string.match(redis.call('HGET', past_key, generation) or '', '^([de])(%d+)$')
    time = number(time)
    if not time then
        return ''
    elseif how == 'd' then
        return time > clock() and 'deleted' or ''
    end
    return time <= clock() and 'expired' or ''
end

-- Remember how a life ended, or will.
local function note_end(past_key, generation, how, time, forget_at)
    redis.call('HSET', past_key, generation, string.format('%s%.0f', how, time))
    if redis.call('PTTL', past_key) < forget_at - clock() then
        redis.call('PEXPIREAT', past_key, string.format('%.0f', forget_at))
    end
end

-- Forget ends that need not be known any more, and those that did not come: a life that was to expire later was lost.
local function tidy_ends(past_key)
    local now, ends = clock(), redis.call('HGETALL', past_key)
    local kept = {}
    for i = 1, #ends, 2 do
        local how, time = string.match(ends[i + 1], '^([de])(%d+)$')
        time = number(time)
        if time and (how == 'd' and time > now or how == 'e' and time <= now and time + KEEP_ENDED > now) then
            kept[#kept + 1] = {generation = ends[i], forget_at = how == 'd' and time or time + KEEP_ENDED}
        else
            redis.call('HDEL', past_key, ends[i])
        end
    end
    if #kept > MOST_ENDED then
        table.sort(kept, function(one, other) return one.forget_at < other.forget_at end)
        for i = 1, #kept - MOST_ENDED do
            redis.call('HDEL', past_key, kept[i].generation)
        end
    end
end

-- The life of a session goes on: something was admitted now. Sets ttl and expires_at of the head.
local function renew(keys, head, now)
    local before = head.expires_at
    if head.ttl > 0 then
        head.expires_at = now + head.ttl
        redis.call('HSET', keys[1], 'ttl', string.format('%.0f', head.ttl),
            'expires_at', string.format('%.0f', head.expires_at))
        for i = 1, 3 do
            expire(keys[i], head.expires_at)
        end
        note_end(keys[4], head.generation, 'e', head.expires_at, head.expires_at + KEEP_ENDED)
    elseif before > 0 then
        head.expires_at = 0
        redis.call('HDEL', keys[1], 'ttl', 'expires_at')
        for i = 1, 3 do
            redis.call('PERSIST', keys[i])
        end
        redis.call('HDEL', keys[4], head.generation)
    end
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

