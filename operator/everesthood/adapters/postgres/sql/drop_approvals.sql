-- Forgets questions whose deadline passed and whose runs were over before.
delete from approval a
where a.verdict is null and a.deadline_at <= now()
  and not exists (select from run r where r.id = a.run_id and r.state in (0, 1, 2))
