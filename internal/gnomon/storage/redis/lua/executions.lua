local reply = {}
for _, id in ipairs(A.ids) do
  reply[#reply + 1] = shown_execution(id) or nil
end
return reply
