-- Whether these keys are of a format that this version knows, and whether we may do what every script does.
call('HSET', PREFIX .. 'probe', 'at', text(now))
call('ZADD', PREFIX .. 'probe:order', text(now), 'at')
call('DEL', PREFIX .. 'probe', PREFIX .. 'probe:order')
call('SET', PREFIX .. 'format', A.format, 'NX')
return call('GET', PREFIX .. 'format')
