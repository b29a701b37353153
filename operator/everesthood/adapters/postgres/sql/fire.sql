-- Accepts the runs of schedules with their audit lines. A row that does not come back was accepted before.
with asked as (
    select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                         $8::int[], $9::int[], $10::text[], $11::timestamptz[], $12::boolean[],
                         $13::int[], $14::int[], $15::int[], $16::text[], $17::text[])
        t(id, instance_uid, namespace, instance, input, requested_by, request_id,
          max_attempts, max_run_seconds, schedule, fire_at, held,
          retry_max_attempts, retry_initial_seconds, retry_max_seconds, reason, message)
), fresh as (
    insert into run (id, namespace, instance, instance_uid, input, requested_by, request_id,
                     max_attempts, max_run_seconds, schedule, fire_at, due_at,
                     retry_max_attempts, retry_initial_seconds, retry_max_seconds, template,
                     reason, message)
    select id, namespace, instance, instance_uid, input::json, requested_by, request_id,
           max_attempts, max_run_seconds, schedule, fire_at,
           case when held then 'infinity'::timestamptz else now() end,
           retry_max_attempts, retry_initial_seconds, retry_max_seconds,
           (select i.template from instance i where i.uid = instance_uid), reason, message
    from asked
    on conflict do nothing
    returning id, namespace, requested_by, request_id
), noted as (
    insert into audit (namespace, actor, action, target, request_id)
    select namespace, requested_by, 'run.accept', 'run/' || id, request_id from fresh
)
select id::text from fresh
