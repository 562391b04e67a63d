'use strict';
// One of Node's ways to have work done elsewhere, under the protocol of ../protocol.rs:
//   node peer.js WAY FOLDER
const { Worker } = require('node:worker_threads');
const { fork } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { compile } = require('./kernel.js');

const [way, folder] = process.argv.slice(2);
const script = path.join(__dirname, 'worker.js');
const cores = os.availableParallelism();
process.env.WORK_WASM = path.join(folder, 'work.wasm');

// A thread that is started for one task, and ends with it.
function freshThread() {
  process.env.WORK_KIND = 'thread';
  const module = compile(process.env.WORK_WASM);
  return {
    run: (input) => new Promise((resolve, reject) => {
      const worker = new Worker(script, { workerData: { module, input } });
      worker.once('message', resolve);
      worker.once('error', reject);
    }),
    hold: (count) => keptThreads(count).warm(),
  };
}

// A process that is started for one task, and ended after it.
function freshProcess() {
  process.env.WORK_KIND = 'process';
  return {
    run: (input) => new Promise((resolve, reject) => {
      const child = fork(script, { serialization: 'advanced' });
      child.once('message', ([, output]) => {
        child.removeAllListeners('exit');
        child.kill('SIGKILL');
        resolve(output);
      });
      child.once('error', reject);
      child.once('exit', (code) => reject(new Error(`the child ended with ${code}`)));
      child.send([0, input]);
    }),
    hold: (count) => keptProcesses(count).warm(),
  };
}

// Workers that stay, and get tasks in turns.
function kept(count, start) {
  const waiting = new Map();
  let next = 0;
  const done = ([id, output]) => {
    waiting.get(id)(output);
    waiting.delete(id);
  };
  const workers = Array.from({ length: count }, () => start(done));
  const run = (input) => new Promise((resolve) => {
    const id = next++;
    waiting.set(id, resolve);
    workers[id % count]([id, input]);
  });
  // Each has had a task.
  const warm = () => Promise.all(workers.map(() => run(inputs.small)));
  return { run, warm };
}

const failed = (error) => {
  console.log(`error: ${error.message ?? error}`);
  process.exit(1);
};

function keptThreads(count) {
  process.env.WORK_KIND = 'thread';
  const module = compile(process.env.WORK_WASM);
  const pool = kept(count, (done) => {
    const worker = new Worker(script, { workerData: { module } });
    worker.on('message', done).on('error', failed);
    return (message) => worker.postMessage(message);
  });
  return { ...pool, hold: (more) => keptThreads(more).warm() };
}

function keptProcesses(count) {
  process.env.WORK_KIND = 'process';
  const pool = kept(count, (done) => {
    const child = fork(script, { serialization: 'advanced' });
    child.on('message', done).on('error', failed);
    return (message) => child.send(message);
  });
  return { ...pool, hold: (more) => keptProcesses(more).warm() };
}

function piscina(language, threads) {
  const { Piscina } = require('piscina');
  const workerData = language === 'wasm' ? { module: compile(process.env.WORK_WASM) } : {};
  const pool = new Piscina({
    filename: script,
    minThreads: threads,
    maxThreads: threads,
    concurrentTasksPerWorker: 1,
    env: { ...process.env, WORK_LANGUAGE: language, WORK_KIND: 'piscina' },
    workerData,
  });
  const run = (input) => pool.run(input);
  return {
    run,
    warm: () => Promise.all(Array.from({ length: 4 * threads }, () => run(inputs.small))),
    hold: (count) => piscina(language, count).warm(),
  };
}

function workerpool(workerType, workers) {
  process.env.WORK_KIND = 'workerpool';
  const options = { workerType, minWorkers: workers, maxWorkers: workers };
  if (workerType === 'thread')
    options.workerThreadOpts = { workerData: { module: compile(process.env.WORK_WASM) } };
  else options.forkOpts = { serialization: 'advanced' };
  const pool = require('workerpool').pool(script, options);
  const run = async (input) => pool.exec('run', [input]);
  return {
    run,
    warm: () => Promise.all(Array.from({ length: 4 * workers }, () => run(inputs.small))),
    hold: (count) => workerpool(workerType, count).warm(),
  };
}

const WAYS = {
  'node-thread-fresh': freshThread,
  'node-thread-kept': () => keptThreads(cores),
  'node-process-fresh': freshProcess,
  'node-process-kept': () => keptProcesses(cores),
  piscina: () => piscina('wasm', cores),
  'piscina-javascript': () => piscina('javascript', cores),
  'workerpool-thread': () => workerpool('thread', cores),
  'workerpool-process': () => workerpool('process', cores),
};

// Not what readFileSync returns: that may be a part of a larger buffer, and all of it
// would travel.
const inputs = {};
for (const name of ['small', 'compute', 'large', 'count'])
  inputs[name] = new Uint8Array(fs.readFileSync(path.join(folder, name)));
const expected = {};
const peer = WAYS[way]();

async function one(name) {
  const output = await peer.run(inputs[name]);
  if (Buffer.compare(output, expected[name]) !== 0) throw new Error(`another output of ${name}`);
}

const now = () => process.hrtime.bigint();

const ORDERS = {
  async first(name) {
    expected[name] = await peer.run(inputs[name]);
    return Buffer.from(expected[name]).toString('hex');
  },
  async latency(name, milliseconds) {
    const times = [];
    const began = now();
    do {
      const before = now();
      const output = await peer.run(inputs[name]);
      times.push(now() - before);
      if (Buffer.compare(output, expected[name]) !== 0) throw new Error(`another output of ${name}`);
    } while (now() - began < BigInt(milliseconds) * 1000000n);
    return times.join(' ');
  },
  async throughput(name, milliseconds, inFlight) {
    let count = 0;
    const began = now();
    const end = began + BigInt(milliseconds) * 1000000n;
    await Promise.all(Array.from({ length: Number(inFlight) }, async () => {
      do {
        await one(name);
        count++;
      } while (now() < end);
    }));
    return `${count} ${now() - began}`;
  },
  async hold(count) {
    await peer.hold(Number(count));
    return 'held';
  },
};

(async () => {
  const lines = require('node:readline').createInterface({ input: process.stdin });
  for await (const line of lines) {
    const [order, ...rest] = line.split(' ');
    console.log(await ORDERS[order](...rest));
  }
  process.exit(0);
})().catch(failed);
