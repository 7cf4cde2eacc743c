-- Admits one run of changes, as one unit: all of it or nothing.
--
-- KEYS[1…4] head, log, checkpoint and ends: see session.lua
-- ARGV[1]   generation
-- ARGV[2]   '1' if the sender has no cursor: a missing session is made, one that exists takes the run as it is
-- ARGV[3]   origin
-- ARGV[4]   counter of the first change
-- ARGV[5]   channel for hints
-- ARGV[6]   session id, for the hint: JSON [session id, generation, seq]
-- ARGV[7]   hashes of the changes: two big-endian 32-bit numbers for each
-- ARGV[8]   milliseconds after which the session expires from now on; '0': never; empty: as it was
-- ARGV[9]   lengths of the changes: a big-endian 32-bit number for each
-- ARGV[10]  the changes, wire bytes, one after the other: an argument for each would cost the client more than all else
--
-- Reply: {status, generation, acked, admitted, seq, digest0, digest1, now, expires_at, ended}; status: ok, overlap,
-- gap, generation or missing; ended: see `how_ended`.

local CHUNK = 1000 -- unpack() has room on the stack for some 8,000 values
local PRIME0, PRIME1 = 2147483647, 2147483629
local FACTOR0, FACTOR1 = 1299709, 1299721

local generation, fresh, origin, first = ARGV[1], ARGV[2] == '1', ARGV[3], tonumber(ARGV[4])
local channel, session, hashes, ttl = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local lengths, changes = ARGV[9], ARGV[10]
local count = #lengths / 4

local head, problem = read_head(KEYS[1], KEYS[2], KEYS[3])
if problem then
    return redis.error_reply(problem)
end

local now, acked = clock(), 0
if head then
    -- A server's clock may step back; the times in one log don't.
    now = math.max(now, head.admitted_at)
    acked = number(redis.call('HGET', KEYS[1], 'acked:' .. origin) or '0')
    if not acked then
        return redis.error_reply('MALFORMED acked counter in the session\'s head')
    end
end

local function reply(status, admitted, ended)
    if not head then
        return {status, '', 0, 0, 0, 0, 0, now, 0, ended}
    end
    return {status, head.generation, acked, admitted, head.seq, head.digest0, head.digest1, now, head.expires_at, ended}
end

-- As localfirst.change does it. A time has at most fifteen digits, so the sums stay below 2^53 and the quotients below
-- 2^21: `*`, `+` and `%` on doubles are exact.
local function append()
    local stamp = string.format('%.0f:', now)
    local digest0, digest1 = head.digest0, head.digest1
    local place = 1
    for start = 1, count, CHUNK do
        local elements = {}
        for i = start, math.min(start + CHUNK - 1, count) do
            local hash0, hash1 = struct.unpack('>I4I4', hashes, (i - 1) * 8 + 1)
            digest0 = (digest0 * FACTOR0 + hash0 + now) % PRIME0
            digest1 = (digest1 * FACTOR1 + hash1 + now) % PRIME1
            local following = place + struct.unpack('>I4', lengths, (i - 1) * 4 + 1)
            elements[i - start + 1] = stamp .. struct.pack('>I4I4', digest0, digest1)
                .. string.sub(changes, place, following - 1)
            place = following
        end
        redis.call('RPUSH', KEYS[2], unpack(elements))
    end
    head.digest0, head.digest1 = digest0, digest1
end

if not head and not fresh then
    return reply('missing', 0, how_ended(KEYS[4], generation))
end
if head and not fresh and head.generation ~= generation then
    return reply('generation', 0, how_ended(KEYS[4], generation))
end
if first > acked + 1 then
    return reply('gap', 0, '')
end
if first <= acked then
    return reply(first + count - 1 <= acked and 'ok' or 'overlap', 0, '')
end

if not head then
    redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3]) -- parts of a lost session may still be there
    tidy_ends(KEYS[4])
    head = {generation = generation, seq = 0, digest0 = 0, digest1 = 0, floor = 0, ttl = 0, expires_at = 0}
end
append()
head.seq = head.seq + count
acked = first + count - 1
redis.call('HSET', KEYS[1], 'generation', head.generation, 'seq', head.seq, 'digest0', head.digest0,
    'digest1', head.digest1, 'floor', head.floor, 'admitted_at', now, 'acked:' .. origin, acked)
if ttl ~= '' then
    head.ttl = tonumber(ttl)
end
renew(KEYS, head, now)
-- Only a hint: a user without rights to the channel can still push.
redis.pcall('PUBLISH', channel, cjson.encode({session, head.generation, head.seq}))
return reply('ok', count, '')
