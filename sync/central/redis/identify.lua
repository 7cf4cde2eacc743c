-- Tells which store this is; the first to ask makes it. A store that exists is left as it is, whatever its format.
--
-- KEYS[1]  identity of the namespace, a hash: store_id, format
-- ARGV[1]  store_id, if it has to be made
-- ARGV[2]  format, if it has to be made
--
-- Reply: {store_id, format, now in Unix milliseconds}; the first two are nil if the hash doesn't have them.

if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('HSET', KEYS[1], 'store_id', ARGV[1], 'format', ARGV[2])
end
local identity = redis.call('HMGET', KEYS[1], 'store_id', 'format')
local time = redis.call('TIME')
return {identity[1], identity[2], tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)}
