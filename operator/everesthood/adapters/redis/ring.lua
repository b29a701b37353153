-- Ring a queue: KEYS[1] the bell, KEYS[2] the list; ARGV[1] how long it rings in ms, ARGV[2] the message.
-- A bell that still rings, or a message that still waits, is enough: a queue nobody listens to stays short.
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then
  return 0
end
if redis.call('LLEN', KEYS[2]) > 0 then
  return 0
end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
