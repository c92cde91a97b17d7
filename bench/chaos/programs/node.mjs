// The libraries of Node.js as their documentation has them: `node node.mjs LIBRARY`, what to ask for in CHAOS_….
//
// They come back by themselves and name the last id. What a library gives up for good, its user would open again; that
// goes by the query, because none of them lets a new stream begin at an id. One line for each event: JSON with kind, id, data
// and milliseconds since the epoch. Packages are found beside bench/chaos/tools.sh's environment.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const library = process.argv[2];
const url = process.env.CHAOS_URL;
const headers = JSON.parse(process.env.CHAOS_HEADERS);
const kinds = JSON.parse(process.env.CHAOS_KINDS);
const found = createRequire(pathToFileURL(process.env.CHAOS_NODE + '/'));
const load = (name) => import(pathToFileURL(found.resolve(name)));
const AGAIN_MS = 300;
let lastId = '';

function take(kind, id, data) {
  if (id) lastId = id;
  console.log(JSON.stringify({ kind: kind || 'message', id: lastId, data, t: Date.now() }));
}

function resumed() {
  const place = new URL(url);
  if (lastId) place.searchParams.set('lastEventId', lastId);
  return place.href;
}

function watch(EventSource, options) {
  const source = new EventSource(resumed(), options);
  for (const kind of kinds) {
    source.addEventListener(kind, (event) => take(kind, event.lastEventId, event.data));
  }
  source.addEventListener('error', () => {
    if (source.readyState !== 2) return;
    source.close();
    setTimeout(() => watch(EventSource, options), AGAIN_MS);
  });
}

const libraries = {
  async eventsource() {
    const { EventSource } = await load('eventsource');
    watch(EventSource, {
      fetch: (place, init) => fetch(place, { ...init, redirect: 'error', headers: { ...init.headers, ...headers } }),
    });
  },
  async undici() {
    const { EventSource } = await load('undici');
    watch(EventSource, {});
  },
  async 'fetch-event-source'() {
    globalThis.window = globalThis; // it was made for browsers, and wants no more of one than timers and fetch
    const { fetchEventSource } = await load('@microsoft/fetch-event-source');
    await fetchEventSource(url, {
      headers,
      redirect: 'error', // nobody but who was asked gets the headers
      openWhenHidden: true,
      async onopen(response) {
        if (!response.ok) throw new Error(`status ${response.status}`);
      },
      onmessage: (event) => take(event.event, event.id, event.data),
      onclose() {
        throw new Error('ended'); // by default an end in good order is final
      },
      onerror: () => AGAIN_MS,
    });
  },
};

process.on('unhandledRejection', (error) => console.error(String(error)));
await libraries[library]();
