-- What has not begun ends at once; the worker of one that runs asks for this mark.
local e = find(A.id)
if not e then
  return false
end
if e.state == 'WAITING' or e.state == 'PENDING' then
  finish(A.id, e, {
    state = 'CANCELLED', cancel_requested_at = now, error_code = 'cancelled', error_message = 'cancelled on request',
  })
elseif e.state == 'RUNNING' and not e.cancel_requested_at then
  change(A.id, e, {cancel_requested_at = now})
end
announce()
return shown_execution(A.id)
