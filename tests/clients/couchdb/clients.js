// Two devices that sync one CouchDB database with PouchDB: a laptop of Alice's and a phone of Bob's. Arguments: the server's host and
// port, and the file for the documents that the laptop, the phone and the server hold at the end.
'use strict';

const assert = require('assert');
const fs = require('fs');
const PouchDB = require('pouchdb');
PouchDB.plugin(require('pouchdb-adapter-memory'));
PouchDB.plugin(require('pouchdb-find'));

const [server, output] = process.argv.slice(2);
const remote = (user) => new PouchDB(`http://${user}:${user}-password@${server}/notes`);

const laptop = new PouchDB('laptop', { adapter: 'memory' });
const phone = new PouchDB('phone', { adapter: 'memory' });

// A sync that moves nothing is what clients ask for most of the time; `moved` counts documents both ways.
async function sync(device, user, options) {
  const done = await PouchDB.sync(device, remote(user), options);
  assert.deepStrictEqual([done.push.errors, done.pull.errors], [[], []]);
  return done.push.docs_written + done.pull.docs_written;
}

// Syncs both until nothing moves any more. One turn of each is not enough: a pull that meets a push of its own device at the server can
// miss one of two conflicting revisions, which the next pull then brings (so without tidegate too).
async function settle() {
  for (let turn = 0; turn < 6; turn += 1) {
    if ((await sync(laptop, 'alice')) + (await sync(phone, 'bob')) === 0) return;
  }
  throw new Error('after 6 syncs of each device there is still something to move');
}

// Says where the scenario is, and waits until it may go on.
function at(place) {
  fs.writeSync(1, `${place}\n`);
  fs.readSync(0, Buffer.alloc(100));
}

async function change(database, id, edit) {
  const document = await database.get(id);
  edit(document);
  await database.put(document);
}

async function creations() {
  const notes = [...Array(40).keys()].map((n) => ({ _id: `note-${n}`, text: `the laptop's note ${n}` }));
  await laptop.bulkDocs(notes);
  await laptop.put({ _id: 'straße 100 % ü', text: 'an id that is percent-encoded in the path' });
  await laptop.put({ _id: 'photo', _attachments: { 'pixel.bin': { content_type: 'application/octet-stream', data: Buffer.alloc(3000, 7) } } });
  await sync(laptop, 'alice');
  await phone.bulkDocs([...Array(10).keys()].map((n) => ({ _id: `phone-${n}`, text: `the phone's note ${n}` })));
  await settle();
  assert.strictEqual((await phone.info()).doc_count, 52);
}

async function changesAndDeletionsOnBothSides() {
  await change(laptop, 'note-1', (note) => { note.text = 'changed on the laptop'; });
  await change(phone, 'note-2', (note) => { note.text = 'changed on the phone'; });
  await laptop.remove(await laptop.get('note-3'));
  await phone.remove(await phone.get('phone-4'));
  await settle();
  await assert.rejects(phone.get('note-3'), { status: 404 });
  await assert.rejects(laptop.get('phone-4'), { status: 404 });
}

// Both change note-5, and one deletes note-6 while the other changes it. CouchDB keeps both leaves; the phone then resolves note-5.
async function conflicts() {
  await change(laptop, 'note-5', (note) => { note.text = 'the laptop thinks so'; });
  await change(phone, 'note-5', (note) => { note.text = 'the phone thinks otherwise'; });
  await laptop.remove(await laptop.get('note-6'));
  await change(phone, 'note-6', (note) => { note.text = 'kept by the phone'; });
  await settle();
  const [here, there] = [await laptop.get('note-5', { conflicts: true }), await phone.get('note-5', { conflicts: true })];
  assert.strictEqual(here._conflicts.length, 1);
  assert.deepStrictEqual(here, there);
  await phone.remove('note-5', there._conflicts[0]);
  await change(phone, 'note-5', (note) => { note.text = 'both were right'; });
  await settle();
}

// 600 documents of 1 kB in one go: a body over 256 KiB, which is an import.
async function anImport() {
  await laptop.bulkDocs([...Array(600).keys()].map((n) => ({ _id: `import-${n}`, text: String(n).padEnd(1000, '.') })));
  await sync(laptop, 'alice', { batch_size: 600 });
  await sync(phone, 'bob', { batch_size: 600 });
}

// Both stay connected: what one writes arrives at the other by the live feed.
async function live() {
  const feeds = [[laptop, 'alice'], [phone, 'bob']].map(([device, user]) => PouchDB.sync(device, remote(user), { live: true, heartbeat: 1000 }));
  const arrives = async (device, id) => {
    for (let turn = 0; turn < 200; turn += 1) {
      try {
        return await device.get(id);
      } catch (error) {
        if (error.status !== 404) throw error;
        await new Promise((wake) => setTimeout(wake, 50));
      }
    }
    throw new Error(`${id} did not arrive within 10 s`);
  };
  await Promise.all(feeds.map((feed) => new Promise((idle, fail) => feed.on('paused', idle).on('error', fail))));
  for (let turn = 0; turn < 5; turn += 1) {
    await laptop.put({ _id: `live-laptop-${turn}`, text: 'typed while connected' });
    await arrives(phone, `live-laptop-${turn}`);
    await phone.put({ _id: `live-phone-${turn}`, text: 'typed while connected' });
    await arrives(laptop, `live-phone-${turn}`);
  }
  await new Promise((wake) => setTimeout(wake, 500)); // the feeds are open again, so that the server has seen each that the log will show
  await Promise.all(feeds.map((feed) => {
    const ended = new Promise((done) => feed.on('complete', done));
    feed.cancel();
    return ended;
  }));
}

// What a client does that keeps no copy of its own: reads and writes one by one, among them the reads by POST.
async function withoutACopy() {
  const notes = remote('alice');
  assert.strictEqual((await notes.get('note-1')).text, 'changed on the laptop');
  assert.strictEqual((await notes.get('straße 100 % ü')).text, 'an id that is percent-encoded in the path');
  assert.strictEqual((await notes.getAttachment('photo', 'pixel.bin')).length, 3000);
  await notes.putAttachment('photo', 'text.txt', (await notes.get('photo'))._rev, Buffer.from('a caption'), 'text/plain');
  await notes.put({ _id: 'direct', text: 'written to the server' });
  await change(notes, 'direct', (note) => { note.text = 'changed on the server'; });
  await notes.put({ _id: 'brief', text: 'soon gone' });
  await notes.remove(await notes.get('brief'));
  assert.strictEqual((await notes.allDocs({ keys: ['note-1', 'nowhere'] })).rows.length, 2);
  assert.strictEqual((await notes.allDocs({ startkey: 'live-', endkey: 'live-~' })).rows.length, 10);
  assert.strictEqual((await notes.find({ selector: { text: 'typed while connected' }, limit: 100 })).docs.length, 10);
  await notes.compact();
  assert.strictEqual((await (await notes.fetch('/_session')).json()).ok, true);
  await settle();
}

// What clients do most of the time: the first of these syncs may be a device's first since the last change.
async function nothingNew() {
  for (const turn of ['first', 'second', 'third']) {
    at(`the ${turn} sync without a change`);
    assert.strictEqual(await sync(laptop, 'alice'), 0);
    assert.strictEqual(await sync(phone, 'bob'), 0);
    await assert.rejects(remote('alice').get('_local/nothing-of-the-kind'), { status: 404 });
  }
  at('synced');
}

// Both write and sync while the way to the server is cut now and then: a sync that fails is begun again, as an app does. How many failed is
// said at the end.
async function interruptions() {
  let failed = 0;
  // If both directions of a sync fail, PouchDB tells of one and leaves the other's promise to nobody; such an error must be the cut's.
  const ofTheCut = (error) => {
    if (!['ECONNRESET', 'ECONNREFUSED', 'EPIPE'].includes(error && error.code)) throw error;
  };
  process.on('unhandledRejection', ofTheCut);
  const stubborn = async (device, user) => {
    for (let turn = 0; turn < 100; turn += 1) {
      try {
        return await sync(device, user);
      } catch (error) {
        failed += 1;
        await new Promise((wake) => setTimeout(wake, 50));
      }
    }
    throw new Error('100 syncs failed one after the other');
  };
  at('interruptions');
  for (let turn = 0; turn < 8; turn += 1) {
    for (const [device, user, note] of [[laptop, 'alice', 'note-7'], [phone, 'bob', 'note-8']]) {
      await device.bulkDocs([...Array(5).keys()].map((n) => ({ _id: `cut-${user}-${turn}-${n}`, text: `written in turn ${turn}` })));
      await change(device, note, (edited) => { edited.text = `turn ${turn}`; });
      await stubborn(device, user);
    }
  }
  for (let turn = 0; (await stubborn(laptop, 'alice')) + (await stubborn(phone, 'bob')) > 0; turn += 1) assert(turn < 6);
  process.off('unhandledRejection', ofTheCut);
  at(`${failed} syncs failed`);
}

// A second database, made and dropped.
async function anotherDatabase() {
  const scratch = new PouchDB(`http://alice:alice-password@${server}/scratch`);
  await scratch.put({ _id: 'one', text: 'not for long' });
  await scratch.destroy();
}

// Every document with its revision, its conflicts and its attachments, and the ids of the deleted ones, which a copy keeps too. In which
// revision an attachment came (`revpos`) each copy counts for itself.
async function held(database) {
  const { rows } = await database.allDocs({ include_docs: true, conflicts: true, attachments: true });
  for (const { doc } of rows) {
    for (const attachment of Object.values(doc._attachments || {})) delete attachment.revpos;
  }
  const { results } = await database.changes({ style: 'all_docs' });
  return {
    documents: Object.fromEntries(rows.map(({ id, doc }) => [id, doc])),
    deleted: results.filter((row) => row.deleted).map((row) => row.id).sort(),
  };
}

(async () => {
  await creations();
  await changesAndDeletionsOnBothSides();
  await conflicts();
  await anImport();
  await live();
  await withoutACopy();
  await anotherDatabase();
  await interruptions();
  await nothingNew();
  const documents = { laptop: await held(laptop), phone: await held(phone), server: await held(remote('alice')) };
  const made = { note: 40, phone: 10, import: 600, 'live-laptop': 5, 'live-phone': 5 };
  const expected = Object.entries(made).flatMap(([kind, count]) => [...Array(count).keys()].map((n) => `${kind}-${n}`))
    .filter((id) => !['note-3', 'phone-4'].includes(id)).concat('straße 100 % ü', 'photo', 'direct')
    .concat(['alice', 'bob'].flatMap((user) => [...Array(40).keys()].map((n) => `cut-${user}-${Math.floor(n / 5)}-${n % 5}`)));
  assert.deepStrictEqual(Object.keys(documents.laptop.documents).sort(), expected.sort());
  fs.writeFileSync(output, JSON.stringify(documents));
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
