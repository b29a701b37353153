-- What is kept for how long, and how large it is.

-- Only requests with a key pay for it; runs, steps, lines and the audit log are forgotten by their primary keys.
create index idempotency_created on idempotency (created_at);

-- Bytes of the output as JSON. A claim carries outputs up to a sum, so that none becomes too large for a worker.
alter table step add column size int not null default 0;
