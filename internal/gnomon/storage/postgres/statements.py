"""The protocol's statements: one for each arrow of the state machine. docs/protocol.md numbers and explains them.

Rows come in as one JSON literal, so a statement has one text whatever their number. State is compared with `is not
distinct from` where rows are named by id: the planner can't then mistake a partial index on the state, whose statistics
are always stale, for the shorter way.
"""

from sqlalchemy import TextClause, text

from gnomon.job.ports import DURATION_BUCKETS

WAKE_CHANNEL = "gnomon_wake"

# How long a message has before its execution is published again: 15 s, doubled each time, at most 15 minutes.
PUBLISH_SLOT_SECONDS = 15
PUBLISH_SLOT_MAX_SECONDS = 900

# The longest that R2 lets an execution wait that was lost again and again.
LOST_AGAIN_MAX_SECONDS = 900

# True of any row that is given, and taken for rare: so each is looked up by its id, however small the table was when
# the statement was planned. By what the planner believes of a table that is new it would read all of it instead.
FEW_ROWS = "pg_column_size(r.id) = 16"
FEW_TOKENS = "pg_column_size(t.id) = 16"
FEW_KEYS = "pg_column_size(k.job_id) = 16"

DUE_COLUMNS = """id, revision, queue, cron_schedule, interval_seconds, anchor_at, execute_at, timezone, starts_at,
    ends_at, spread_seconds, misfire_policy, misfire_grace_seconds, misfire_limit, misfires_run, overlap, next_run"""


def _due(whose: str, until: str = "now()") -> TextClause:
    """Jobs that are on time come first, oldest first. Of those that fell behind, which are more work, only a few.

    However few others there are: what falls due meanwhile has to wait for the whole batch. `until`: how far it looks
    ahead.

    Where there are some, the transaction's commit does not wait for the disk: a claim's does, before anything is sent,
    and the disk takes them in order. What a power cut takes back is due again, under the same ids.
    """
    return text(f"""
with on_time as materialized (
    select {DUE_COLUMNS} from jobs
    where status = 'RUNNING' and next_run <= {until} and next_run > now() - interval '60 seconds'
        and (held_until is null or held_until <= now()) {whose}
    order by next_run, id limit :limit for no key update skip locked
), behind as materialized (
    select {DUE_COLUMNS} from jobs
    where status = 'RUNNING' and next_run <= now() - interval '60 seconds'
        and (held_until is null or held_until <= now()) {whose}
    order by next_run, id limit :behind_limit for no key update skip locked
), committing as materialized (
    select set_config('synchronous_commit', 'off', true)
)
select now() as now, false as is_behind, on_time.* from on_time, committing
union all
select now() as now, true as is_behind, behind.* from behind, committing
""")


# For a process that can only run some of the jobs: those of these names.
NAMED_JOB = "and name = any(cast(:names as text[]))"
NAMED_EXECUTION = """and exists (
        select from jobs j where j.id = e.job_id and j.deleted_at is null and j.name = any(cast(:names as text[]))
    )"""

DUE = _due("")
DUE_NAMED = _due(NAMED_JOB)
# A. What falls due within :ahead seconds as well.
DUE_AHEAD = _due("", "now() + make_interval(secs => :ahead)")

# D0. Pauses end by themselves at their `paused_until`: the first moment from then on was computed at the pause. And a
# job whose last moment was dispatched ahead is COMPLETED at that moment, to which it was held.
RESUME: TextClause = text("""
with pick as materialized (
    select id, paused_until from jobs
    where status = 'STOPPED' and paused_until <= now() and deleted_at is null
    order by paused_until limit :limit for no key update skip locked
), resumed as (
    update jobs j set status = 'RUNNING', pause_reason = null, paused_until = null, updated_at = now()
    from pick where j.id = pick.id
    returning j.id, j.revision, pick.paused_until
), through as materialized (
    select id from jobs
    where status = 'RUNNING' and next_run is null and held_until <= now()
    order by held_until limit :limit for no key update skip locked
), completed as (
    update jobs j set status = 'COMPLETED', held_until = null from through where j.id = through.id
)
insert into job_events (job_id, action, revision, owed_from)
select id, 'RESUMED', revision, paused_until from resumed
""")

# D3, and executions that were asked for. `state` is PENDING, WAITING or SKIPPED. What a unique index refuses is left
# out of the answer. Only D takes the first publish slot (`slot`) with the creation; the others are due for R1 at once.
INSERT_EXECUTIONS: TextClause = text(f"""
insert into executions (
    id, job_id, revision, kind, queue, scheduled_at, trigger, repeats, state, max_attempts, overlap, available_at,
    next_publish_at, publish_count, published_at, finished_at, error_code, skipped_count, skipped_until
)
select r.id, j.id, coalesce(r.revision, j.revision), coalesce(r.kind, j.type), coalesce(r.queue, j.queue),
    r.scheduled_at, :trigger, r.repeats, :state, coalesce(r.max_attempts, j.max_attempts),
    case when r.serial and j.overlap <> 'allow' then 'serial' else j.overlap end,
    coalesce(r.available_at, r.scheduled_at),
    case when :state = 'PENDING' then
        coalesce(greatest(now(), r.scheduled_at) + make_interval(secs => :slot), r.available_at, r.scheduled_at) end,
    case when :state = 'PENDING' and :slot is not null then 1 else 0 end,
    case when :state = 'PENDING' and :slot is not null then now() end,
    case when :state = 'SKIPPED' then now() end,
    r.reason, coalesce(r.count, 0), r.until
from json_to_recordset(cast(:rows as json)) as r (
    id uuid, job_id uuid, scheduled_at timestamptz, available_at timestamptz, serial boolean, reason text, count int,
    until timestamptz, repeats uuid, revision int, kind text, queue text, max_attempts int
)
join jobs j on j.id = r.job_id
where {FEW_ROWS}
order by r.id
on conflict do nothing
returning id
""")

# D4. The rows are locked by DUE. Without a reason, `held_until` is the moment until which a job is left alone that was
# looked at ahead of it: because another execution was in the way, which is judged at the moment, or it is the last one.
ADVANCE: TextClause = text(f"""
update jobs j set
    next_run = case when r.hold_reason is null then r.next_run else j.next_run end,
    misfires_run = coalesce(r.misfires_run, j.misfires_run),
    status = case when r.hold_reason is null and r.next_run is null and r.held_until is null then 'COMPLETED'
        else j.status end,
    held_until = case when r.hold_reason is not null then now() + interval '1 hour' else r.held_until end,
    hold_reason = r.hold_reason
from json_to_recordset(cast(:rows as json)) as r (
    id uuid, next_run timestamptz, misfires_run int, hold_reason text, held_until timestamptz
)
where j.id = r.id and {FEW_ROWS}
""")

# A, taken back, under the job's row lock: what was dispatched ahead and whose moment is still to come. Nobody can claim
# it before that, and it is looked at again once its row is locked. What was cancelled ahead of its moment stays, and so
# does what is earlier: the books have no gap, and can't be closed before it, which is why the clock shows no less.
TAKE_BACK: TextClause = text("""
with seen as materialized (
    select id, scheduled_at, state, attempt from executions
    where job_id = :id and trigger = 'SCHEDULE' and id >= :first and scheduled_at > clock_timestamp()
    order by id for update
), kept as (
    select max(scheduled_at) as until from seen where state <> 'PENDING' or attempt > 0
), gone as (
    delete from executions e using seen, kept
    where e.id = seen.id and seen.scheduled_at > coalesce(kept.until, '-infinity')
    returning e.scheduled_at
)
select min(gone.scheduled_at) as next_run,
    greatest(clock_timestamp(), (select until from kept) + interval '1 microsecond') as now
from gone
""")

# What was taken back for an execution that somebody asked for is looked at again when its moment has come.
LEAVE_FOR_MOMENT: TextClause = text("update jobs set next_run = :next_run, held_until = :next_run where id = :id")


def _republish(whose: str) -> TextClause:
    """R1. A slot is pushed further each time it is taken, with up to a tenth of jitter so that herds disperse."""
    return text(f"""
with pick as materialized (
    select id from executions e
    where state = 'PENDING' and next_publish_at <= now() and available_at <= now() {whose}
    order by next_publish_at, id limit :limit for no key update skip locked
)
update executions e set
    next_publish_at = now() + make_interval(
        secs => least(:slot * 2 ^ least(e.publish_count, 10), :longest) * (1 + random() / 10)
    ),
    publish_count = least(e.publish_count + 1, 100),
    published_at = now()
from pick where e.id = pick.id
returning e.id, e.queue
""")


REPUBLISH = _republish("")
REPUBLISH_NAMED = _republish(NAMED_EXECUTION)

# When the broker lost its messages, every slot taken before is free again. So many at a time: a million of them would
# outlast the statement's time.
FREE_SLOTS: TextClause = text("""
with pick as materialized (
    select id from executions
    where state = 'PENDING' and publish_count > 0 and next_publish_at > now() and published_at < :before
    order by next_publish_at limit :limit for no key update skip locked
)
update executions e set next_publish_at = greatest(now(), e.available_at), publish_count = 0
from pick where e.id = pick.id
""")

PICK_PENDING = """pick as materialized (
    select id from executions
    where id = any(cast(:ids as uuid[])) and state is not distinct from 'PENDING'
    order by id for no key update
)"""

RETURN_SLOTS: TextClause = text(f"""
with {PICK_PENDING}
update executions e set next_publish_at = greatest(now(), e.available_at), publish_count = 0
from pick where e.id = pick.id
""")


# A. As soon as something is within the look-ahead, but no sooner than after a :tick, so that one batch takes what came
# into it meanwhile; and no later than when something is due, what was left for its moment included.
NEXT_AHEAD = """
    (select greatest(next_run - make_interval(secs => :ahead), now() + make_interval(secs => :tick)) from jobs
        where status = 'RUNNING' and next_run is not null and (held_until is null or held_until <= now())
        order by next_run limit 1),"""


def _horizon(whose_job: str, whose_execution: str, ahead: str = "") -> TextClause:
    return text(f"""
select now() as now, least({ahead}
    (select next_run from jobs
        where status = 'RUNNING' and next_run is not null
            and (held_until is null or held_until <= now() or hold_reason is null) {whose_job}
        order by next_run limit 1),
    (select min(paused_until) from jobs where status = 'STOPPED' and paused_until is not null),
    (select min(next_publish_at) from executions e where state = 'PENDING' {whose_execution})
) as at
""")


HORIZON = _horizon("", "")
HORIZON_NAMED = _horizon(NAMED_JOB, NAMED_EXECUTION)
HORIZON_AHEAD = _horizon("", "", NEXT_AHEAD)

NO_BUCKETS = f"array_fill(0::bigint, array[{len(DURATION_BUCKETS) + 1}])"

# Before C, where some may have to wait for others of their target's host.
PENDING: TextClause = text("""
select id, job_id, revision from executions
where id = any(cast(:ids as uuid[])) and state is not distinct from 'PENDING'
""")

# In place of C. Each comes back at a moment of its own, so that those of a host with thousands do not come at once.
PUT_OFF: TextClause = text(f"""
with {PICK_PENDING}, put_off as (
    update executions e set publish_count = 0, next_publish_at =
        greatest(now() + make_interval(secs => :delay + random() * :spread), e.available_at)
    from pick where e.id = pick.id
    returning e.kind, e.queue
)
insert into tallies as t (instance_id, kind, queue, outcome, count, duration_sum, duration_buckets)
select cast(:instance as uuid), kind, queue, 'put_off', count(*), 0, {NO_BUCKETS} from put_off
group by kind, queue order by kind, queue
on conflict (instance_id, kind, queue, outcome) do update set count = t.count + excluded.count
""")

# C. Rows of an earlier call with the same delivery, whose reply was lost, come back as well.
CLAIM: TextClause = text(f"""
with pick as materialized (
    select id from executions
    where id = any(cast(:ids as uuid[])) and state is not distinct from 'PENDING' and available_at <= now()
    order by id for no key update skip locked
), claimed as (
    update executions e set
        state = 'RUNNING', attempt = e.attempt + 1, lease_owner = :delivery,
        lease_expires_at = now() + make_interval(secs => :lease), claimed_at = now(),
        first_started_at = coalesce(e.first_started_at, now()), worker = :worker
    from pick where e.id = pick.id
    returning e.id, e.attempt, e.job_id, e.revision, e.failures, e.scheduled_at, e.kind, e.queue,
        e.first_started_at = now() as is_first
), started as (
    insert into tallies as t (instance_id, kind, queue, outcome, count, duration_sum, duration_buckets)
    select cast(:instance as uuid), kind, queue, 'started', count(*), 0, {NO_BUCKETS} from claimed
    where is_first group by kind, queue
    on conflict (instance_id, kind, queue, outcome) do update set count = t.count + excluded.count
)
select id, attempt, job_id, revision, failures, scheduled_at from claimed
union all
select id, attempt, job_id, revision, failures, scheduled_at from executions
where id = any(cast(:ids as uuid[])) and state is not distinct from 'RUNNING' and lease_owner = :delivery
""")

# S. Only what comes back may be sent.
START: TextClause = text(f"""
with pick as materialized (
    select e.id from executions e
    join json_to_recordset(cast(:tokens as json)) as t (id uuid, attempt int) on e.id = t.id and e.attempt = t.attempt
    where {FEW_TOKENS} and e.state is not distinct from 'RUNNING' and e.lease_owner = :delivery
        and e.lease_expires_at > now() + make_interval(secs => :margin)
    order by e.id for no key update of e
)
update executions e set effect_started_at = now() from pick where e.id = pick.id returning e.id
""")

RENEW: TextClause = text(f"""
with pick as materialized (
    select e.id from executions e
    join json_to_recordset(cast(:tokens as json)) as t (id uuid, attempt int) on e.id = t.id and e.attempt = t.attempt
    where {FEW_TOKENS} and e.state is not distinct from 'RUNNING'
    order by e.id for no key update of e
)
update executions e set lease_expires_at = now() + make_interval(secs => :lease)
from pick where e.id = pick.id returning e.id
""")

CANCEL_REQUESTED: TextClause = text(f"""
select e.id from executions e
join json_to_recordset(cast(:tokens as json)) as t (id uuid, attempt int) on e.id = t.id and e.attempt = t.attempt
where {FEW_TOKENS} and e.state = 'RUNNING' and e.cancel_requested_at is not null
""")

# Of each job whose active execution has just ended, the oldest that waits becomes due. One that may overlap others is
# not in anybody's way, so `ended` leaves it out: another may be active still.
PROMOTED = """
promoted as (
    update executions e set state = 'PENDING', available_at = now(), next_publish_at = now(), publish_count = 0
    where e.state = 'WAITING' and e.id in (
        select distinct on (w.job_id) w.id from executions w
        where w.state = 'WAITING' and w.job_id in (select job_id from ended) order by w.job_id, w.id
    )
    returning e.id, e.available_at
)
"""

NOTIFIED = f"""
notified as (
    select pg_notify('{WAKE_CHANNEL}', extract(epoch from min(available_at))::text)::text as told
    from (select available_at from ended_or_pending where state = 'PENDING' union all select available_at from promoted)
        as soon
    having count(*) > 0
)
"""

# L. Nothing was sent, so no failure is counted. One that was cancelled, or whose job was deleted, ends instead.
RELEASE: TextClause = text(f"""
with pick as materialized (
    select e.id, e.cancel_requested_at is not null or e.failures >= e.max_attempts as is_last from executions e
    join json_to_recordset(cast(:tokens as json)) as t (id uuid, attempt int) on e.id = t.id and e.attempt = t.attempt
    where {FEW_TOKENS} and e.state is not distinct from 'RUNNING' and e.effect_started_at is null
    order by e.id for no key update of e
), ended_or_pending as (
    update executions e set
        state = case when pick.is_last then 'CANCELLED' else 'PENDING' end,
        finished_at = case when pick.is_last then now() end,
        lease_owner = null, lease_expires_at = null, publish_count = 0,
        available_at = now() + make_interval(secs => :delay),
        next_publish_at = now() + make_interval(secs => :delay)
    from pick where e.id = pick.id
    returning e.id, e.job_id, e.state, e.overlap, e.available_at
), ended as (
    select job_id from ended_or_pending where state <> 'PENDING' and overlap <> 'allow'
), {PROMOTED}, {NOTIFIED}
select id from ended_or_pending
union all
select null from notified
""")

BUCKET = f"width_bucket(seconds, array{list(DURATION_BUCKETS)}::double precision[])"
COUNTED_BUCKETS = ", ".join(f"count(*) filter (where bucket = {index})" for index in range(len(DURATION_BUCKETS) + 1))

TALLIED = f"""
tallied as (
    insert into tallies as t (instance_id, kind, queue, outcome, count, duration_sum, duration_buckets)
    select cast(:instance as uuid), kind, queue, outcome, count(*), coalesce(sum(seconds), 0), array[{COUNTED_BUCKETS}]
    from (
        select kind, queue, seconds, case state when 'PENDING' then :again else state end as outcome, {BUCKET} as bucket
        from ended_or_pending
    ) as counted
    group by kind, queue, outcome order by kind, queue, outcome
    on conflict (instance_id, kind, queue, outcome) do update set
        count = t.count + excluded.count,
        duration_sum = t.duration_sum + excluded.duration_sum,
        duration_buckets = (
            select array_agg(old + new order by place)
            from unnest(t.duration_buckets, excluded.duration_buckets) with ordinality as both_sides (old, new, place)
        )
)
"""

# W. A retry of an execution whose cancellation was asked, or whose row allows no further attempt, ends instead.
RECORD: TextClause = text(f"""
with pick as materialized (
    select e.id, e.attempt, e.worker, e.claimed_at, e.cancel_requested_at, e.failures, e.max_attempts,
        r.state, r.delay, r.failed, r.seconds, r.error_code, r.error_message, r.response_status, r.response_excerpt
    from executions e
    join json_to_recordset(cast(:rows as json)) as r (
        id uuid, attempt int, state text, delay double precision, failed boolean, seconds double precision,
        error_code text, error_message text, response_status int, response_excerpt text
    ) on e.id = r.id and e.attempt = r.attempt
    where {FEW_ROWS} and e.state is not distinct from 'RUNNING'
    order by e.id for no key update of e
), verdict as (
    select *, case
        when state <> 'PENDING' then state
        when cancel_requested_at is not null then 'CANCELLED'
        when failures + failed::int >= max_attempts then 'FAILED'
        else 'PENDING' end as final_state
    from pick
), ended_or_pending as (
    update executions e set
        state = v.final_state,
        failures = v.failures + v.failed::int,
        lease_expires_at = null,
        finished_at = case when v.final_state = 'PENDING' then null else now() end,
        available_at = case when v.final_state = 'PENDING' then now() + make_interval(secs => v.delay)
            else e.available_at end,
        next_publish_at = case when v.final_state = 'PENDING' then now() + make_interval(secs => v.delay) end,
        publish_count = 0,
        effect_started_at = case when v.final_state = 'PENDING' then null else e.effect_started_at end,
        error_code = v.error_code, error_message = v.error_message,
        response_status = v.response_status, response_excerpt = v.response_excerpt
    from verdict v where e.id = v.id
    returning e.id, e.job_id, e.kind, e.queue, e.state, e.overlap, e.available_at, v.seconds
), ended as (
    select job_id from ended_or_pending where state <> 'PENDING' and overlap <> 'allow'
), kept as (
    insert into attempts (
        execution_id, attempt, worker, claimed_at, finished_at, outcome, error_code, error_message, response_status
    )
    select v.id, v.attempt, v.worker, v.claimed_at, now(), 'FAILED', v.error_code, v.error_message, v.response_status
    from verdict v where v.final_state = 'PENDING'
    on conflict do nothing
), {TALLIED}, {PROMOTED}, {NOTIFIED}
select id from ended_or_pending
union all
select null from notified
""")

# What has not begun ends at once; the worker of one that runs asks for this mark. Only one that was the active one of
# its job makes way for another.
CANCEL: TextClause = text(f"""
with pick as materialized (
    select id, state from executions where id = :id for no key update
), ended_or_pending as (
    update executions e set
        state = 'CANCELLED', finished_at = now(), cancel_requested_at = now(),
        error_code = 'cancelled', error_message = 'cancelled on request'
    from pick where e.id = pick.id and pick.state in ('WAITING', 'PENDING')
    returning e.id, e.job_id, e.state, e.overlap, e.available_at, pick.state as old_state
), asked as (
    update executions e set cancel_requested_at = now()
    from pick where e.id = pick.id and pick.state = 'RUNNING' and e.cancel_requested_at is null
), ended as (
    select job_id from ended_or_pending where old_state = 'PENDING' and overlap <> 'allow'
), {PROMOTED}, {NOTIFIED}
select count(*) from notified
""")

# After a lost reply: these were recorded before, by us.
RECORDED_BEFORE: TextClause = text(f"""
select e.id from executions e
join json_to_recordset(cast(:tokens as json)) as t (id uuid, attempt int, lease_owner uuid)
    on e.id = t.id and e.attempt = t.attempt and e.lease_owner = t.lease_owner
where {FEW_TOKENS} and e.state is distinct from 'RUNNING'
""")

# R2. Only S sets effect_started_at, so it is set only where a second effect is forbidden.
# An execution may be what ends its workers, and takes all that is in flight beside it along. So only the first loss is
# tried again at once; then each waits for a random while, up to :spread, three times as long after each further loss,
# so that the others get past the culprit before their attempts are used up. Where a single attempt is left it waits as
# if it had been lost once more.
RESCUE: TextClause = text(f"""
with pick as materialized (
    select id, attempt, worker, claimed_at, cancel_requested_at, failures, max_attempts, effect_started_at
    from executions
    where state = 'RUNNING' and lease_expires_at < now() - make_interval(secs => :grace)
        and (cast(:spare as double precision) is null or lease_expires_at < now() - make_interval(secs => :spare))
    order by id limit 1000 for no key update skip locked
), verdict as (
    select pick.*, case
        when effect_started_at is not null then 'UNKNOWN'
        when cancel_requested_at is not null then 'CANCELLED'
        when failures + 1 >= max_attempts then 'FAILED'
        else 'PENDING' end as final_state,
        case when before.times = 0 and failures + 2 < max_attempts then 0
            else random() * least(:spread * 3 ^ (before.times - (failures + 2 < max_attempts)::int), :longest)
            end as delay,
        left(case when before.times = 0 then 'the worker ' || coalesce(pick.worker, '') || ' did not renew its lease'
            else 'lost ' || before.times + 1 || ' times: the workers ' || before.workers || ', '
                || coalesce(pick.worker, '') || ' did not renew their leases' end, 500) as message
    from pick cross join lateral (
        select count(*) as times, string_agg(coalesce(a.worker, ''), ', ' order by a.attempt) as workers
        from attempts a where a.execution_id = pick.id and a.outcome = 'LOST'
    ) as before
), ended_or_pending as (
    update executions e set
        state = v.final_state, failures = v.failures + 1, lease_owner = null, lease_expires_at = null,
        finished_at = case when v.final_state = 'PENDING' then null else now() end,
        available_at = case when v.final_state = 'PENDING' then now() + make_interval(secs => v.delay)
            else e.available_at end,
        next_publish_at = case when v.final_state = 'PENDING' then now() + make_interval(secs => v.delay) end,
        publish_count = 0, error_code = 'lost', error_message = v.message,
        response_status = null, response_excerpt = null
    from verdict v where e.id = v.id
    returning e.id, e.job_id, e.kind, e.queue, e.state, e.overlap, e.available_at,
        extract(epoch from now() - e.claimed_at)::double precision as seconds
), ended as (
    select job_id from ended_or_pending where state <> 'PENDING' and overlap <> 'allow'
), kept as (
    insert into attempts (execution_id, attempt, worker, claimed_at, finished_at, outcome, error_code, error_message)
    select v.id, v.attempt, v.worker, v.claimed_at, now(), 'LOST', 'lost', 'the worker did not renew its lease'
    from verdict v where v.final_state = 'PENDING'
    on conflict do nothing
), {TALLIED}, {PROMOTED}, {NOTIFIED}
select state, count(*) as total from ended_or_pending group by state
union all
select 'PROMOTED', count(*) from promoted having count(*) > 0
union all
select 'NOTIFIED', 0 from notified
""")

# Waiting executions whose job has nothing active: a dispatch and a recording that crossed can leave one. It goes from
# job to job, so that its cost does not grow with the number that wait for the same one.
PROMOTE_IDLE: TextClause = text(f"""
with recursive waiting as (
    (select job_id from executions where state = 'WAITING' order by job_id limit 1)
    union all
    select (
        select w.job_id from executions w
        where w.state = 'WAITING' and w.job_id > waiting.job_id order by w.job_id limit 1
    ) from waiting where waiting.job_id is not null
), idle as materialized (
    select (
        select w.id from executions w where w.state = 'WAITING' and w.job_id = waiting.job_id order by w.id limit 1
    ) as id
    from waiting where job_id is not null and not exists (
        select 1 from executions a
        where a.job_id = waiting.job_id and a.state in ('PENDING', 'RUNNING') and a.overlap <> 'allow'
    )
), ended_or_pending as (
    update executions e set state = 'PENDING', available_at = now(), next_publish_at = now(), publish_count = 0
    from idle where e.id = idle.id and e.state = 'WAITING'
    returning e.id, e.state, e.available_at
), promoted as (
    select available_at from ended_or_pending where false
), {NOTIFIED}
select count(*) as total from ended_or_pending
union all
select 0 from notified
""")

# What a worker that hears nothing should have heard. A message may get lost, so the first one proves nothing. Where the
# slot is over and not taken anew, nobody publishes: the broker is away, or the schedulers.
OVERLOOKED: TextClause = text("""
select count(*) from (
    select from executions
    where state = 'PENDING' and next_publish_at > now() and next_publish_at < now() + make_interval(secs => :longest)
        and queue = any(cast(:queues as text[])) and available_at <= now() and publish_count >= 2
        and published_at > now() - make_interval(secs => :oldest)
        and published_at <= now() - make_interval(secs => :newest)
    limit 1000
) as waiting
""")

DEFINITIONS: TextClause = text(f"""
select r.job_id, r.revision, r.definition from job_revisions r
join json_to_recordset(cast(:keys as json)) as k (job_id uuid, revision int)
    on r.job_id = k.job_id and r.revision = k.revision
where {FEW_KEYS}
""")

TALLIES: TextClause = text("""
select kind, outcome, sum(count)::bigint as count, sum(duration_sum) as duration_sum,
    (select array_agg(total order by place) from (
        select place, sum(value)::bigint as total
        from tallies s, unnest(s.duration_buckets) with ordinality as u (value, place)
        where s.kind = t.kind and s.outcome = t.outcome group by place
    ) as summed) as duration_buckets
from tallies t group by kind, outcome order by kind, outcome
""")
