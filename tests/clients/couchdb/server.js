// The app server of the CouchDB run: express-pouchdb over databases in memory. Arguments: port, record. What it writes goes to its
// working directory. In the record stands one line of JSON for each request as it arrived, so that the access log can be held against it.
'use strict';

const fs = require('fs');
const express = require('express');
const PouchDB = require('pouchdb');
PouchDB.plugin(require('pouchdb-adapter-memory'));

const [port, record] = process.argv.slice(2);
const users = { alice: 'alice-password', bob: 'bob-password' };
fs.writeFileSync('config.json', JSON.stringify({ admins: users }));

const app = express();
app.use((request, response, next) => {
  fs.appendFileSync(record, JSON.stringify({ method: request.method, target: request.url }) + '\n');
  next();
});
const couch = require('express-pouchdb')(PouchDB.defaults({ adapter: 'memory' }), {
  configPath: 'config.json',
  logPath: 'couch.log',
  overrideMode: { exclude: ['routes/fauxton'] },
});
app.use('/', couch);
app.listen(Number(port), '127.0.0.1', () => console.log('listening'));
