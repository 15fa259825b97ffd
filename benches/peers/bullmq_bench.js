// Tasks per second of one BullMQ worker, for tasks that do nothing.
//
//   NODE_PATH=.../node_modules node bullmq_bench.js REDIS_PORT TASKS CONCURRENCY
//
// Puts the tasks into the queue, then starts a worker and counts in its function. Settings are
// BullMQ's own, but that finished jobs are removed. Prints one number.
const { Queue, Worker } = require('bullmq');

const [port, tasks, concurrency] = process.argv.slice(2).map(Number);
const connection = { host: '127.0.0.1', port, maxRetriesPerRequest: null };

async function main() {
  const queue = new Queue('noop', { connection });
  for (let done = 0; done < tasks; done += 1000) {
    const jobs = Array.from({ length: Math.min(1000, tasks - done) }, () => ({
      name: 'noop', data: {}, opts: { removeOnComplete: true },
    }));
    await queue.addBulk(jobs);
  }
  // Not how it starts, and not how it ends.
  const first = Math.floor(tasks / 10);
  const last = Math.floor(tasks / 20) * 19;
  let count = 0;
  let begin;
  const end = await new Promise((resolve) => {
    new Worker('noop', async () => {
      count += 1;
      if (count === first) begin = process.hrtime.bigint();
      if (count === last) resolve(process.hrtime.bigint());
    }, { connection, concurrency });
  });
  console.log((last - first) / (Number(end - begin) / 1e9));
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
