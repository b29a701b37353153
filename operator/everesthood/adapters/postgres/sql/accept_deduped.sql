-- As `accept`, for requests with a dedupe key, of which each is named once and locked: the answer to a request
-- is the run that was made for it, one that was there, or, where the request takes its place, one that waits.
-- `keyed` is false where another transaction took the idempotency key at this very moment.
with asked as (
    select * from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::int[], $9::int[], $10::text[], $11::bytea[], $12::int[], $13::int[], $14::int[],
        $15::smallint[], $16::int[], $17::uuid[], $18::text[], $19::text[], $20::text[], $21::int[]
    ) t(id, instance_uid, namespace, instance, input, requested_by, request_id,
        max_attempts, max_run_seconds, key, digest,
        retry_max_attempts, retry_initial_seconds, retry_max_seconds, priority, ttl_seconds, replay_of, labels,
        dedupe_key, mode, seconds)
), live as materialized (
    select uid, current_revision, suspended, template from instance
    where uid in (select instance_uid from asked) and deleted_at is null
    order by uid for share
), known as (
    select a.id, i.run_id, i.digest from asked a
    join idempotency i on i.instance_uid = a.instance_uid and i.key = a.key
), open as materialized (
    select a.*, l.template from asked a join live l on l.uid = a.instance_uid
    where a.id not in (select id from known)
), found as materialized (
    select a.id, f.id as run_id, a.mode from open a cross join lateral (
        select r.id from run r
        where r.instance_uid = a.instance_uid and r.dedupe_key = a.dedupe_key and r.state in (0, 1, 2)
        order by r.id desc limit 1) f
    where a.mode = 'simple'
    union all
    select a.id, f.id, a.mode from open a cross join lateral (
        select r.id, r.created_at from run r
        where r.instance_uid = a.instance_uid and r.dedupe_key = a.dedupe_key
        order by r.id desc limit 1) f
    where a.mode = 'throttle' and f.created_at > now() - a.seconds * interval '1 second'
    union all
    select a.id, f.id, a.mode from open a cross join lateral (
        select r.id from run r
        where r.instance_uid = a.instance_uid and r.dedupe_key = a.dedupe_key and r.state in (0, 1, 2)
          and r.state = 0 and r.started_at is null
        order by r.id desc limit 1) f
    where a.mode = 'debounce'
), replaced as (  -- not a run that was claimed since: then the request gets one of its own
    update run r
    set input = a.input::json, due_at = now() + a.seconds * interval '1 second',
        max_attempts = a.max_attempts, max_run_seconds = a.max_run_seconds,
        retry_max_attempts = a.retry_max_attempts, retry_initial_seconds = a.retry_initial_seconds,
        retry_max_seconds = a.retry_max_seconds, priority = coalesce(-a.priority, 0),
        expires_at = now() + a.ttl_seconds * interval '1 second', replay_of = a.replay_of,
        labels = a.labels::jsonb, template = a.template
    from open a join found f on f.id = a.id
    where a.mode = 'debounce' and r.id = f.run_id and r.state = 0 and r.started_at is null
    returning a.id, r.id as run_id, r.namespace, a.requested_by, a.request_id, r.labels
), unlabelled as (
    delete from run_label l using replaced p
    where l.run_id = p.run_id and l.namespace = p.namespace
      and not coalesce(p.labels @> jsonb_build_object(l.name, l.value), false)
), same as materialized (
    select id, run_id from found where mode <> 'debounce'
    union all
    select id, run_id from replaced
), keyed as (
    insert into idempotency (instance_uid, key, digest, run_id)
    select a.instance_uid, a.key, a.digest, coalesce(s.run_id, a.id)
    from open a left join same s on s.id = a.id
    where a.key is not null
    order by a.instance_uid, a.key
    on conflict do nothing
    returning instance_uid, key
), fresh as (
    insert into run (id, namespace, instance, instance_uid, input, requested_by, request_id,
                     max_attempts, max_run_seconds,
                     retry_max_attempts, retry_initial_seconds, retry_max_seconds,
                     priority, expires_at, replay_of, labels, template, dedupe_key, due_at)
    select id, namespace, instance, instance_uid, input::json, requested_by, request_id,
           max_attempts, max_run_seconds,
           retry_max_attempts, retry_initial_seconds, retry_max_seconds,
           coalesce(-priority, 0), now() + ttl_seconds * interval '1 second', replay_of, labels::jsonb, template, dedupe_key,
           now() + case when mode = 'debounce' then seconds else 0 end * interval '1 second'
    from open where id not in (select id from same)
    returning id, namespace, instance_uid, requested_by, request_id, replay_of, labels
), labelled as (
    insert into run_label (namespace, name, value, run_id)
    select w.namespace, l.key, l.value, w.id
    from (select id, namespace, labels from fresh union all select run_id, namespace, labels from replaced) w
    cross join lateral jsonb_each_text(w.labels) l
    where w.labels is not null
    on conflict do nothing
), noted as (
    insert into audit (namespace, actor, action, target, request_id)
    select namespace, requested_by, case when replay_of is null then 'run.accept' else 'run.replay' end,
           'run/' || id, request_id from fresh
    union all
    select namespace, requested_by, 'run.debounce', 'run/' || run_id, request_id from replaced
)
select a.id::text as id, coalesce(s.run_id, a.id)::text as run, f.id is null as repeated, null::bytea as digest,
       case when f.id is null or a.mode = 'debounce' or l.suspended then null else l.current_revision end as revision,
       a.key is null or (a.instance_uid, a.key) in (select instance_uid, key from keyed) as keyed,
       exists (select from replaced where replaced.id = a.id) as changed
from open a join live l on l.uid = a.instance_uid
left join same s on s.id = a.id left join fresh f on f.id = a.id
union all
select id::text, run_id::text, true, digest, null, true, false from known
