// Node's cluster, as its documentation has it: a worker for each processor, one port.
'use strict';
const cluster = require('node:cluster');
const http = require('node:http');

if (cluster.isPrimary) {
  const workers = Number(process.argv[2] ?? 1);
  let listening = 0;
  cluster.on('listening', (_, address) => {
    listening += 1;
    if (listening === workers) console.log(`listening on http://127.0.0.1:${address.port}`);
  });
  for (let count = 0; count < workers; count += 1) cluster.fork();
} else {
  const headers = { 'content-type': 'text/plain; charset=utf-8', 'content-length': '6' };
  http
    .createServer((_, response) => response.writeHead(200, headers).end('hello\n'))
    .listen(0, '127.0.0.1');
}
