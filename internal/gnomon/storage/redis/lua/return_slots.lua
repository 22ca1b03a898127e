for _, id in ipairs(A.ids) do
  local e = find(id)
  if e and e.state == 'PENDING' then
    change(id, e, {next_publish_at = math.max(now, tonumber(e.available_at)), publish_count = 0})
  end
end
return 0
