'use strict';
// What runs the work elsewhere: a worker thread, a child process, a worker of piscina or
// of workerpool. WORK_WASM names the module, unless its compiled form comes along.
const { parentPort, workerData } = require('node:worker_threads');
const { compile, inWasm, inJavaScript } = require('./kernel.js');

// piscina wraps what it passes on.
const given = Array.isArray(workerData) ? workerData[1] : workerData;
const javascript = process.env.WORK_LANGUAGE === 'javascript';
const module_ = javascript ? null : (given?.module ?? compile(process.env.WORK_WASM));
const run = (input) => (javascript ? inJavaScript(input) : inWasm(module_, input));

switch (process.env.WORK_KIND) {
  case 'thread':
    if (given.input) parentPort.postMessage(run(given.input));
    else parentPort.on('message', ([id, input]) => parentPort.postMessage([id, run(input)]));
    break;
  case 'process':
    process.on('message', ([id, input]) => process.send([id, run(input)]));
    break;
  case 'workerpool':
    require('workerpool').worker({ run });
    break;
  default: // piscina calls what is exported
    module.exports = run;
}
