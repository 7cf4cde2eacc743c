-- Takes a session out of the index, if it is not there.
--
-- KEYS[1]  index of the namespace, a sorted set: see keys.py
-- KEYS[2]  head of the session
-- ARGV[1]  session id, as it is in the index
--
-- Reply: 1 if it was taken out, else 0. On a cluster the two keys are in different slots: it would take two steps there.

if redis.call('EXISTS', KEYS[2]) == 1 then
    return 0
end
return redis.call('ZREM', KEYS[1], ARGV[1])
