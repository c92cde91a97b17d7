// One EventSource for all tabs of a browser. lebureau-relay serves it at /relay/client.js; docs/clients.md is its manual.
//
// This file is both the module that pages import and the SharedWorker that they share. A page that can't have that worker
// (it comes from another origin, or a policy forbids it) shares with its other tabs by a Web Lock, whose holder has the
// EventSource, and a BroadcastChannel; one that can't do that either has a stream of its own. In all three a Hub has the
// EventSource and numbers what comes, and each tab takes each number once: so takeovers and late answers do no harm.

/**
 * @typedef {'connecting' | 'open' | 'waiting' | 'closed'} State
 * @typedef {{state: State, code?: string, status?: number, retryAfter?: number}} Status
 * @typedef {{url: string, withCredentials: boolean, user: string}} Place what is shared, by those for whom all of it is equal
 * @typedef {{e: string, n: number, id: string}} At a place in the numbering `e`: after event `n`, whose id the relay knows
 * @typedef {At & {data?: string, gap?: {cause: string, lastEventId: string}}} Item
 * @typedef {{from: string, at?: At, place?: Place, bye?: boolean}} Ask
 * @typedef {{to?: string, first?: boolean, at: At, status: Status, items: Item[]}} Parcel
 */

const VERSION = 'lebureau-relay 1'; // tabs that loaded another protocol must not meet
const TICK_MS = 4000; // between signs of life that a visible tab asks for
const MOST_MISSED = 3; // of them, before it takes matters into its own hands
const SETTLE_MS = 250; // a soft refusal opens, too, and says so at once
const LONGEST_WAIT_MS = 60_000;
const RING_ITEMS = 256; // what a tab may have missed
const RING_CHARS = 1 << 20;
const OWN = ['message', 'state', 'gap', 'refused'];

const random = () => Math.random().toString(36).slice(2);

/** The latest items. */
class Ring {
  /** @type {Item[]} */ items = [];
  #chars = 0;

  /** @param {Item} item */
  push(item) {
    this.items.push(item);
    this.#chars += item.data?.length ?? 0;
    while (this.items.length > RING_ITEMS || this.#chars > RING_CHARS)
      this.#chars -= this.items.shift()?.data?.length ?? 0;
  }

  /** Those that follow a place, if all are held. @param {At} at @param {At} top */
  after(at, top) {
    const found = this.items.filter((item) => item.e === at.e && item.n > at.n);
    return at.e === top.e && found.length >= top.n - at.n ? found : undefined;
  }
}

/** Whoever has the EventSource. */
class Hub {
  /** @type {Set<(parcel: Parcel) => void>} */ members = new Set();
  /** @type {Status} */ status = { state: 'connecting' };
  /** @type {EventSource | undefined} */ #source;
  /** @type {number | undefined} */ #timer;
  #tries = 0;
  #opened;

  /** @param {Place} place @param {At} [at] where another one stopped @param {Ring} ring */
  constructor(place, at, ring = new Ring()) {
    this.place = place;
    this.at = at ?? { e: random(), n: 0, id: '' };
    this.ring = ring;
    this.#opened = !!at;
    addEventListener('online', this.#open);
    this.#open();
  }

  /** @param {Ask} ask @param {(parcel: Parcel) => void} reply */
  answer({ from, at }, reply) {
    const { at: top, status } = this;
    const gap = { cause: 'away', lastEventId: at?.id ?? '' };
    const ahead = at?.e === top.e && at.n > top.n; // it heard more from the one before us than we did
    const items = !at || ahead ? [] : this.ring.after(at, top) ?? [{ ...top, gap }];
    reply({ to: from, at: top, status, items });
  }

  end() {
    removeEventListener('online', this.#open);
    this.#stop();
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = undefined;
  }

  /** @param {Status} [status] @param {Item[]} items */
  #tell(status = this.status, ...items) {
    this.status = status;
    this.members.forEach((member) => member({ at: this.at, status, items }));
  }

  #url() {
    const url = new URL(this.place.url);
    // A new EventSource can't send the header; once it has had an event it does, and the header wins.
    if (this.at.id) url.searchParams.set('lastEventId', this.at.id);
    return url.href;
  }

  #open = () => {
    this.#stop();
    this.#broke();
    const source = new EventSource(this.#url(), { withCredentials: this.place.withCredentials });
    this.#source = source;
    source.onopen = () => {
      this.#timer = setTimeout(() => this.#live(), SETTLE_MS);
    };
    source.onmessage = ({ data, lastEventId: id }) => {
      this.#live();
      const item = { ...this.at, n: this.at.n + 1, id, data };
      this.at = { e: item.e, n: item.n, id };
      this.ring.push(item);
      this.#tell(undefined, item);
    };
    source.onerror = () => {
      clearTimeout(this.#timer);
      if (source.readyState === source.CLOSED) this.#askWhy(source);
      else this.#broke();
    };
    this.#hear('gap', (payload, id) => this.#gap(payload, id));
    this.#hear('closing', ({ reason, retry }, id) => {
      this.at = { ...this.at, id };
      this.#tell({ state: 'waiting', code: reason, retryAfter: retry / 1000 });
    });
    this.#hear('refused', (refusal) => this.#wait(refusal));
  };

  /** One of the relay's own events. @param {string} name @param {(payload: any, id: string) => void} told */
  #hear(name, told) {
    this.#source?.addEventListener('relay.' + name, ({ data, lastEventId }) => told(JSON.parse(data).payload, lastEventId));
  }

  #broke() {
    if (this.status.state === 'open') this.#tell({ state: 'connecting' });
  }

  #live() {
    clearTimeout(this.#timer);
    if (this.status.state === 'open') return;
    this.#tries = 0;
    // What passed before the first id can't be asked for.
    if (this.#opened && !this.at.id) this.#gap({ cause: 'no_id', lastEventId: '' }, '');
    this.#opened = true;
    this.#tell({ state: 'open' });
  }

  /** @param {{cause: string, lastEventId: string}} gap @param {string} id */
  #gap(gap, id) {
    this.at = { e: random(), n: 0, id }; // nobody else can have counted what comes now
    this.#tell(undefined, { ...this.at, gap });
  }

  /** Come back later. @param {{code?: string, status?: number, retryAfter?: number}} refusal */
  #wait(refusal) {
    this.#stop();
    const floor = Math.max(1000 * (refusal.retryAfter ?? 0), Math.min(1000 * 2 ** this.#tries++, LONGEST_WAIT_MS));
    this.#timer = setTimeout(this.#open, floor * (1 + Math.random() / 2)); // a herd spreads, and nobody comes early
    this.#tell({ ...refusal, state: 'waiting' });
  }

  /** An EventSource that has given up doesn't say why. @param {EventSource} source */
  async #askWhy(source) {
    const abort = new AbortController();
    const refusal = { status: 0, code: 'unreachable', retryAfter: 0 };
    const credentials = this.place.withCredentials ? 'include' : 'same-origin';
    try {
      const answer = await fetch(this.#url(), { credentials, cache: 'no-store', signal: abort.signal });
      refusal.status = answer.status;
      refusal.retryAfter = Number(answer.headers.get('retry-after')) || 0;
      refusal.code = answer.status === 204 ? 'upstream_ended' : 'http_' + answer.status;
      if (answer.status > 204) refusal.code = (await answer.json()).code ?? refusal.code;
    } catch {} // there is no answer, or no problem document in it
    abort.abort();
    if (source !== this.#source) return;
    const { status } = refusal;
    if (status !== 204 && (status < 400 || status > 499 || [408, 425, 429].includes(status))) return this.#wait(refusal);
    this.end();
    this.#tell({ ...refusal, state: 'closed' });
  }
}

/**
 * A stream that all tabs share. Events: one of each type that the stream carries, with the payload as `data`; `message` for every
 * event, its text as `data`; `state`, `gap` and `refused`, with what the guide says as `data`.
 */
export class SharedStream extends EventTarget {
  /** @type {Status} */ #status = { state: 'connecting' };
  /** @type {At | undefined} */ #at;
  /** @type {Place} */ #place;
  #ring = new Ring();
  #id = random();
  #worker;
  #asked = false;
  #missed = 0;
  /** @type {number | undefined} */ #ticker;
  /** @type {(ask: Ask) => void} */ #send = () => {};
  /** Take the place of one that says nothing. */ #replace = () => {};
  #unlink = (/** @type {boolean} */ _closed) => {};

  /** @param {string | URL} url @param {Options} [options] */
  constructor(url, { key, withCredentials = false, user = '', worker } = {}) {
    super();
    const base = globalThis.document?.baseURI ?? location.href;
    const place = new URL(url, base);
    if (key) place.searchParams.set('apiKey', key);
    this.#place = { url: place.href, withCredentials, user };
    const own = new URL(import.meta.url);
    // In a bundle this address would be the whole application's.
    this.#worker = worker ?? (own.origin === location.origin && own.pathname.endsWith('/relay/client.js') ? own.href : '');
    addEventListener('pagehide', this.#hide);
    addEventListener('pageshow', this.#show);
    globalThis.document?.addEventListener('visibilitychange', this.#look);
    this.#link();
  }

  get state() {
    return this.#status.state;
  }

  /** Why it is in its state: `code`, `status` and `retryAfter` (seconds), as far as there are any. */
  get reason() {
    return this.#status;
  }

  get lastEventId() {
    return this.#at?.id ?? '';
  }

  /** How the tabs share: `worker`, `leader`, `follower`, or `alone`. */
  mode = '';

  close() {
    this.#status = { state: 'closed', code: 'closed' };
    this.#leave();
  }

  #leave() {
    removeEventListener('pagehide', this.#hide);
    removeEventListener('pageshow', this.#show);
    globalThis.document?.removeEventListener('visibilitychange', this.#look);
    this.#part(true);
  }

  #part(closed = false) {
    clearInterval(this.#ticker);
    this.#unlink(closed);
    this.#unlink = this.#send = this.#replace = () => {};
  }

  #hide = () => this.#part();
  #show = (/** @type {PageTransitionEvent} */ { persisted }) => persisted && this.#link();
  #look = () => document.hidden || this.#ask();

  #link() {
    this.#missed = 0;
    this.#ticker = setInterval(this.#tick, TICK_MS);
    if (this.#worker && globalThis.SharedWorker) this.#linkWorker(this.#worker);
    else this.#linkTabs();
  }

  /** A hidden tab's clock may stand still, and nobody looks at it. */
  #tick = () => {
    if (globalThis.document?.hidden) this.#missed = 0;
    else if (this.#missed++ < MOST_MISSED) this.#ask();
    else {
      this.#missed = 0;
      this.#replace();
    }
  };

  #ask() {
    this.#asked = true;
    this.#send({ from: this.#id, at: this.#at, place: this.#place });
  }

  /** @param {string | URL} url */
  #linkWorker(url) {
    this.mode = 'worker';
    let heard = false;
    let parted = false;
    const elsewhere = () => {
      if (parted) return;
      this.#part();
      if (!heard) this.#worker = '';
      this.#link();
    };
    /** @type {SharedWorker} */ let worker;
    try {
      worker = new SharedWorker(url, { name: VERSION, type: 'module' });
    } catch {
      return elsewhere(); // another origin's
    }
    worker.onerror = elsewhere; // a policy forbids it, or it isn't there
    this.#replace = elsewhere;
    worker.port.onmessage = ({ data }) => {
      heard = true;
      if (data.life) navigator.locks?.request(data.life, elsewhere); // it is granted once the worker is no more
      else this.#hear(data);
    };
    const send = (/** @type {Ask} */ ask) => worker.port.postMessage(ask);
    // While this lock is held the worker knows that the tab lives; without locks it knows what it is told.
    let release = () => {};
    const held = new Promise((resolve) => (release = () => resolve(0)));
    this.#unlink = () => {
      parted = true;
      send({ from: this.#id, bye: true });
      worker.port.close();
      release();
    };
    const begin = () => {
      this.#send = send;
      this.#ask();
      return held;
    };
    navigator.locks ? navigator.locks.request(this.#id, begin) : begin();
  }

  async #linkTabs() {
    let parted = false;
    this.#unlink = () => (parted = true);
    /** @type {BroadcastChannel | undefined} */ let channel;
    /** @type {Hub | undefined} */ let hub;
    let release = () => {};
    let queue = new AbortController();

    const lead = () => {
      this.mode = channel ? 'leader' : 'alone';
      hub = new Hub(this.#place, this.#at, this.#ring);
      hub.members.add((parcel) => this.#hear(parcel));
      if (channel) hub.members.add((parcel) => channel?.postMessage(parcel));
      this.#ask();
      channel?.postMessage({ first: true, at: hub.at, status: hub.status, items: [] }); // whoever is elsewhere asks
      return /** @type {Promise<void>} */ (new Promise((resolve) => (release = resolve)));
    };
    this.#send = (ask) => (hub ? hub.answer(ask, (parcel) => this.#hear(parcel)) : channel?.postMessage({ ...ask, place: undefined }));
    this.#unlink = (closed) => {
      parted = true;
      hub?.end();
      queue.abort();
      // The next in the queue should hear first that all is over.
      setTimeout(release, closed ? 1000 : 0);
      setTimeout(() => channel?.close(), closed ? 1000 : 0);
    };
    if (!navigator.locks || !globalThis.crypto?.subtle) return void lead();

    const secret = new TextEncoder().encode(JSON.stringify(this.#place)); // it may hold a key, and names can be read by all
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', secret));
    const name = VERSION + ' ' + Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
    if (parted) return;
    channel = new BroadcastChannel(name);
    channel.onmessage = ({ data }) => {
      if (!data.from) hub || this.#hear(data);
      else hub?.answer(data, (parcel) => channel?.postMessage(parcel));
    };
    const stand = (/** @type {LockOptions} */ options) => {
      this.mode = 'follower';
      navigator.locks.request(name, options, () => (parted ? undefined : lead())).catch(({ name }) => {
        if (parted || options.signal?.aborted) return;
        hub?.end();
        hub = undefined;
        // A tab that is looked at has taken the lead from this one, which had stopped;
        if (name === 'AbortError') return wait();
        channel = undefined; // or this page has no origin, and no locks
        lead();
      });
    };
    const wait = () => {
      stand({ signal: (queue = new AbortController()).signal });
      this.#ask();
    };
    this.#replace = () => {
      queue.abort();
      stand({ steal: true });
    };
    wait();
  }

  /** @param {Parcel} parcel */
  #hear({ to, first, at, status, items }) {
    if (to && to !== this.#id) return;
    this.#missed = 0;
    for (const item of items) this.#take(item);
    if (to) this.#at ??= at;
    if (to || first) this.#asked = false;
    const mine = this.#at;
    if (mine && (mine.e !== at.e || mine.n < at.n) && !this.#asked) this.#ask();
    if (this.state === 'closed' || JSON.stringify(status) === JSON.stringify(this.#status)) return;
    this.#status = status;
    if (status.state === 'closed') this.#leave();
    if (status.status) this.#fire('refused', status);
    this.#fire('state', status);
  }

  /** @param {Item} item */
  #take({ e, n, id, data = '', gap }) {
    const mine = this.#at;
    if (this.state === 'closed' || (mine?.e === e && n <= mine.n)) return;
    if (!gap && (mine?.e !== e || n !== mine.n + 1)) return; // it will be asked for
    this.#at = { e, n, id };
    if (gap) return this.#fire('gap', gap, id);
    if (this.mode === 'follower') this.#ring.push({ e, n, id, data }); // for the day it leads
    this.#fire('message', data, id);
    let event;
    try {
      event = JSON.parse(data);
    } catch {}
    if (typeof event?.type === 'string' && !OWN.includes(event.type)) this.#fire(event.type, event.payload, id);
  }

  /** @param {string} type @param {any} data */
  #fire(type, data, lastEventId = this.lastEventId) {
    this.dispatchEvent(new MessageEvent(type, { data, lastEventId }));
  }
}

/**
 * @typedef {object} Options
 * @property {string} [key] an API key, where no session cookie is; it stands in no name that others can read
 * @property {boolean} [withCredentials] send cookies to a relay of another origin
 * @property {string} [user] whose cookie it is: tabs of another one don't share
 * @property {string | URL} [worker] where this file lies on the page's own origin; empty for no worker
 */

/** Open a stream, or join the one that is open. @param {string | URL} url @param {Options} [options] */
export const connect = (url, options) => new SharedStream(url, options);

if (!('document' in globalThis) && 'onconnect' in globalThis) {
  /** @type {Map<string, Hub>} */ const hubs = new Map();
  const life = random();
  const lives = new Promise((held) => {
    navigator.locks?.request(life, () => (held(0), new Promise(() => {})));
  });
  /** @type {any} */ (globalThis).onconnect = (/** @type {MessageEvent} */ { ports: [port] }) => {
    lives.then(() => port.postMessage({ life }));
    /** @type {string | undefined} */ let name;
    const reply = (/** @type {Parcel} */ parcel) => port.postMessage(parcel);
    const leave = () => {
      const hub = hubs.get(name ?? '');
      hub?.members.delete(reply);
      if (hub?.members.size) return;
      hub?.end();
      hubs.delete(name ?? '');
    };
    port.onmessage = ({ data: ask }) => {
      if (ask.bye) return leave();
      if (!name) navigator.locks?.request(ask.from, leave);
      name = JSON.stringify(ask.place);
      let hub = hubs.get(name);
      if (!hub || hub.status.state === 'closed') hubs.set(name, (hub = new Hub(ask.place, ask.at)));
      hub.members.add(reply);
      hub.answer(ask, reply);
    };
  };
}
