return call('HGETALL', PREFIX .. 'tallies')
