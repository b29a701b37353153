-- Commits a batch of runs with their idempotency keys and audit lines. A row that does not come back
-- is a repeat (its key is taken) or has no instance any more. The share lock makes a deletion of the
-- instance wait, so that it finds the run and cancels it. $12 to $18 are empty where no request says anything
-- of them: most do not, and each column costs.
with asked as (
    select * from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::int[], $9::int[], $10::text[], $11::bytea[], $12::int[], $13::int[], $14::int[],
        $15::smallint[], $16::int[], $17::uuid[], $18::text[], $19::text[]
    ) t(id, instance_uid, namespace, instance, input, requested_by, request_id,
        max_attempts, max_run_seconds, key, digest,
        retry_max_attempts, retry_initial_seconds, retry_max_seconds, priority, ttl_seconds, replay_of, labels,
        schedule)
), live as materialized (
    select uid, current_revision, suspended, template from instance
    where uid in (select instance_uid from asked) and deleted_at is null
    order by uid for share
), keyed as (
    insert into idempotency (instance_uid, key, digest, run_id)
    select instance_uid, key, digest, id from asked
    where key is not null and instance_uid in (select uid from live)
    order by instance_uid, key
    on conflict do nothing
    returning run_id
), fresh as (
    insert into run (id, namespace, instance, instance_uid, input, requested_by, request_id,
                     max_attempts, max_run_seconds,
                     retry_max_attempts, retry_initial_seconds, retry_max_seconds,
                     priority, expires_at, replay_of, labels, template, schedule)
    select id, namespace, instance, instance_uid, input::json, requested_by, request_id,
           max_attempts, max_run_seconds,
           retry_max_attempts, retry_initial_seconds, retry_max_seconds,
           coalesce(-priority, 0), now() + ttl_seconds * interval '1 second', replay_of, labels::jsonb, live.template, schedule
    from asked join live on live.uid = instance_uid
    where key is null or id in (select run_id from keyed)
    returning id, namespace, instance_uid, requested_by, request_id, replay_of, labels
), labelled as (
    insert into run_label (namespace, name, value, run_id)
    select namespace, l.key, l.value, id from fresh cross join lateral jsonb_each_text(labels) l
    where labels is not null
), noted as (
    insert into audit (namespace, actor, action, target, request_id)
    select namespace, requested_by, case when replay_of is null then 'run.accept' else 'run.replay' end,
           'run/' || id, request_id from fresh
)
select fresh.id::text as id, case when live.suspended then null else live.current_revision end as revision
from fresh join live on live.uid = fresh.instance_uid
