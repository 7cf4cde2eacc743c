-- Puts a checkpoint by compare-and-set: drops what it stands for, or makes the session anew of it.
--
-- KEYS[1…4] head, log, checkpoint and ends: see session.lua
-- ARGV[1]   '1' if the session must be there, with the head in ARGV[2…5]; '0' if it must be missing
-- ARGV[2]   generation, ARGV[3] seq, ARGV[4] and ARGV[5] digest
-- ARGV[6]   generation of the checkpoint, ARGV[7] its seq, ARGV[8] and ARGV[9] its digest
-- ARGV[10]  the checkpoint
-- ARGV[11]  channel for hints
-- ARGV[12]  session id, for the hint: JSON [session id, generation, seq]
-- ARGV[13]  milliseconds after which a session that is made expires; 0: never
-- ARGV[14…] for a session that is made: an origin, its highest counter, the next origin, …
--
-- Reply: 1 if it was put, else 0.

local ACKED = 13 -- ARGV up to the first origin
local CHUNK = 1000 -- origins; unpack() has room on the stack for some 8,000 values

local generation, seq, data = ARGV[6], tonumber(ARGV[7]), ARGV[10]

local head, problem = read_head(KEYS[1], KEYS[2], KEYS[3])
if problem then
    return redis.error_reply(problem)
end

local function is_expected()
    if ARGV[1] == '0' then
        return not head
    end
    return head and head.generation == ARGV[2] and head.seq == tonumber(ARGV[3])
        and head.digest0 == tonumber(ARGV[4]) and head.digest1 == tonumber(ARGV[5])
end

-- What needs memory comes first: where that is refused, nothing has been written.
local function compact()
    redis.call('SET', KEYS[3], data)
    if head.expires_at > 0 then
        expire(KEYS[3], head.expires_at)
    end
    redis.call('LTRIM', KEYS[2], seq - head.floor, -1)
    redis.call('HSET', KEYS[1], 'floor', ARGV[7], 'floor_digest0', ARGV[8], 'floor_digest1', ARGV[9])
end

local function replace()
    local now = math.max(clock(), head and head.admitted_at or 0)
    redis.call('SET', KEYS[3], data)
    redis.call('UNLINK', KEYS[1], KEYS[2])
    tidy_ends(KEYS[4])
    redis.call('HSET', KEYS[1], 'generation', generation, 'seq', ARGV[7], 'digest0', ARGV[8], 'digest1', ARGV[9],
        'floor', ARGV[7], 'floor_digest0', ARGV[8], 'floor_digest1', ARGV[9], 'admitted_at', now)
    for start = ACKED + 1, #ARGV, 2 * CHUNK do
        local fields = {}
        for i = start, math.min(start + 2 * CHUNK, #ARGV) - 1, 2 do
            fields[#fields + 1] = 'acked:' .. ARGV[i]
            fields[#fields + 1] = ARGV[i + 1]
        end
        redis.call('HSET', KEYS[1], unpack(fields))
    end
    renew(KEYS, {generation = generation, ttl = tonumber(ARGV[13]), expires_at = 0}, now)
    -- Only a hint: a user without rights to the channel can still do this.
    redis.pcall('PUBLISH', ARGV[11], cjson.encode({ARGV[12], generation, seq}))
end

if seq < 1 or not is_expected() then
    return 0
end
if not head or head.generation ~= generation then
    replace()
elseif seq >= head.floor and seq <= head.seq then
    compact()
else
    return 0
end
return 1
