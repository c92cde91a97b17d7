// The libraries of Node.js as their documentation has them: `node node.mjs LIBRARY URL HEADERS`.
//
// They come back by themselves and name the last id. What a library gives up for good, its user would open again; that
// goes by the query, because none of them lets a new stream begin at an id. One line for each event: JSON with kind, number
// or cause, and milliseconds since the epoch. Packages are found beside bench/chaos/tools.sh's environment.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [library, url, given] = process.argv.slice(2);
const headers = JSON.parse(given);
const found = createRequire(pathToFileURL(process.env.CHAOS_NODE + '/'));
const load = (name) => import(pathToFileURL(found.resolve(name)));
const AGAIN_MS = 300;
let lastId = '';

function take(kind, id, data) {
  if (id) lastId = id;
  const line = { kind: kind || 'message', t: Date.now() };
  try {
    const said = JSON.parse(data);
    const payload = said.payload ?? said;
    if ('n' in payload) line.n = payload.n;
    else line.cause = payload.cause;
  } catch {
    // not of this story
  }
  console.log(JSON.stringify(line));
}

function resumed() {
  const place = new URL(url);
  if (lastId) place.searchParams.set('lastEventId', lastId);
  return place.href;
}

function watch(EventSource, options) {
  const source = new EventSource(resumed(), options);
  for (const kind of ['message', 'relay.gap']) {
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
      fetch: (place, init) => fetch(place, { ...init, headers: { ...init.headers, ...headers } }),
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
