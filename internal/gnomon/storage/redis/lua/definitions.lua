local reply = {}
for place, key in ipairs(A.revisions) do
  reply[place] = call('HGET', PREFIX .. 'revisions:' .. key.job_id, key.revision)
end
return reply
