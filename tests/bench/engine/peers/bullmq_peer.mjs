// BullMQ on Redis or on its PostgreSQL backend; producer and consumer are two processes.
// Done: the consumer's `completed` event of the last job.
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Queue, Worker, createPostgresBackend } from 'bullmq';

const IN_FLIGHT = 50, PER_CALL = 100, POOL = 20;
const PAYLOAD = { org: 'acme', agent: 'triage', input: { ticket: 4711, text: 'x'.repeat(120), lang: 'en' } };
const { values: given } = parseArgs({ options: {
  url: { type: 'string' }, number: { type: 'string' }, bulk: { type: 'boolean', default: false },
  concurrency: { type: 'string', default: '50' }, consume: { type: 'string', default: '' } } });
const number = +given.number;
const now = () => performance.timeOrigin + performance.now();

function backend() {
  const url = new URL(given.url);
  if (url.protocol === 'postgresql:') {
    return [{ connection: { connectionString: given.url, max: POOL, migrate: true } }, createPostgresBackend];
  }
  const connection = { host: url.hostname, port: +url.port, password: url.password, maxRetriesPerRequest: null };
  return [{ connection }];
}

async function consume() {
  const [options, ...rest] = backend();
  let done = 0;
  const worker = new Worker(given.consume, async () => null, { ...options, concurrency: +given.concurrency }, ...rest);
  worker.on('completed', () => { if (++done === number) process.send({ last: now() }); });
  worker.on('error', error => console.error('worker', error.message));
  await worker.waitUntilReady();
  process.send({ ready: true });
}

async function produce(queue) {
  if (given.bulk) {
    for (let at = 0; at < number; at += PER_CALL) {
      const length = Math.min(PER_CALL, number - at);
      await queue.addBulk(Array.from({ length }, () => ({ name: 'noop', data: PAYLOAD })));
    }
    return;
  }
  let sent = 0;
  const lane = async () => { while (sent < number) { sent++; await queue.add('noop', PAYLOAD); } };
  await Promise.all(Array.from({ length: IN_FLIGHT }, lane));
}

async function main() {
  const name = `q${process.pid}`, [options, ...rest] = backend();
  const retry = { attempts: 3, backoff: { type: 'exponential', delay: 1000 } };
  const queue = new Queue(name, { ...options, defaultJobOptions: retry }, ...rest);
  await queue.waitUntilReady();
  const consumer = fork(fileURLToPath(import.meta.url), [...process.argv.slice(2), '--consume', name]);
  const told = key => new Promise(resolve => consumer.on('message', m => { if (m[key]) resolve(m[key]); }));
  const ready = told('ready'), last = told('last');
  await ready;
  const began = now();
  await produce(queue);
  const sent = now();
  const done = await last;
  console.log(JSON.stringify({ accepted: number / ((sent - began) / 1e3), done: number / ((done - began) / 1e3) }));
  consumer.kill('SIGKILL');
  process.exit(0);
}

await (given.consume ? consume() : main());
