// One of npm's libraries reads every case: `node reader.mjs LIBRARY URL READER CASES LAST_WORD TYPES`. A line of JSON for each event.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [library, url, reader, count, lastWord, types] = process.argv.slice(2);
const found = createRequire(pathToFileURL(process.env.CHAOS_NODE + '/'));
const load = (name) => import(pathToFileURL(found.resolve(name)));
let left = Number(count);

function take(number, type, data, id) {
  console.log(JSON.stringify({ case: number, type: type || 'message', data, id }));
  if (data !== lastWord) return false;
  left -= 1;
  if (!left) setTimeout(() => process.exit(0), 100);
  return true;
}

function watch(EventSource, number) {
  const source = new EventSource(`${url}?apiKey=${reader}-${number}`);
  for (const type of JSON.parse(types)) {
    source.addEventListener(type, (event) => {
      if (take(number, event.type, event.data, event.lastEventId)) source.close();
    });
  }
}

for (let number = 0; number < Number(count); number += 1) {
  if (library === 'fetch-event-source') {
    globalThis.window = globalThis; // it was made for browsers, and wants no more of one than timers and fetch
    const { fetchEventSource } = await load('@microsoft/fetch-event-source');
    fetchEventSource(`${url}?apiKey=${reader}-${number}`, {
      openWhenHidden: true,
      onmessage: (event) => take(number, event.event, event.data, event.id),
    });
  } else {
    const { EventSource } = await load(library);
    watch(EventSource, number);
  }
}
