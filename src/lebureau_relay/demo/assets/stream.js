// One stream, read by the browser's own EventSource, and by a new one where that gives up for good.
//
// It stands apart from what is shown, as any application could use it: it says when it is live, when it has
// resumed, and when something may be missing.

import { HeldSource } from "./held.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;

/**
 * @typedef {"connecting" | "live" | "slow" | "offline" | "reconnecting" | "refused" | "ended"} State
 * @typedef {object} Listener
 * @property {(state: State) => void} state the connection has changed
 * @property {(event: {id: string, type: string, payload: any}) => void} event
 * @property {(after: string) => void} resumed the event just told was the first after this id; no gap was told
 * @property {(cause: string) => void} gap events may be missing here
 * @property {(reason: string) => void} closing the relay ends the connection on purpose
 * @property {(code: string) => void} refused the relay won't serve it, for now; told once until it does
 * @property {(events: number) => void} caughtUp it has read so many events that had waited for it, without a gap
 */

export class Stream {
  /** @type {EventSource | HeldSource | undefined} */ #source;
  #url = "";
  #lastId = "";
  #resuming = "";
  #attempt = 0;
  #timer = 0;
  /** While it reads what had waited for it: how many events so far; NaN once there was a gap. */ #backlog = 0;
  #listener;

  /** @param {Listener} listener */
  constructor(listener) {
    this.#listener = listener;
    /** @type {State} */
    this.state = "connecting";
  }

  /** Read from an address that carries its key; goes on where the last one ended. @param {string} url */
  open(url) {
    this.#become("connecting");
    this.#resuming = this.#lastId;
    this.#read(url, EventSource);
  }

  /** Stay connected, and read nothing. */
  hold() {
    this.#resuming = "";
    this.#read(this.#url, HeldSource);
  }

  /** Read what has piled up, then go on as before. */
  async release() {
    const source = this.#source;
    if (!(source instanceof HeldSource)) return;
    this.#backlog = 0;
    await source.release();
    if (source !== this.#source) return;
    if (this.#backlog >= 0) this.#listener.caughtUp(this.#backlog);
    this.#read(this.#url, EventSource);
  }

  /** Ask again at once: the browser says that the network is back. */
  retry() {
    if (this.state === "reconnecting") this.open(this.#url);
  }

  /** @param {string} url @param {typeof EventSource | typeof HeldSource} Source */
  #read(url, Source) {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#url = url;
    // The header Last-Event-ID can't be set on a new EventSource; the relay takes it from here as well.
    const cursor = this.#lastId && `&lastEventId=${encodeURIComponent(this.#lastId)}`;
    const source = new Source(url + cursor);
    this.#source = source;
    source.addEventListener("open", () => {
      // A soft refusal opens, too: one that was refused believes in an event only.
      if (this.state !== "refused") this.#become(source instanceof HeldSource ? "slow" : "live");
    });
    source.addEventListener("message", (message) => this.#take(/** @type {MessageEvent} */ (message)));
    source.addEventListener("error", () => this.#broke());
    this.#hear("relay.gap", ({ cause }) => {
      this.#resuming = "";
      this.#backlog = NaN;
      this.#listener.gap(cause);
    });
    this.#hear("relay.closing", ({ reason }) => {
      this.#listener.closing(reason);
      // Coming back with a revoked key would only count against this address.
      if (reason === "credential_revoked") this.close("ended");
    });
    this.#hear("relay.refused", ({ code }) => {
      if (this.state === "refused") return;
      this.#become("refused");
      this.#listener.refused(code);
    });
  }

  /** Let it go. @param {State} state */
  close(state = "connecting") {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = undefined;
    this.#become(state);
  }

  /** Listen to one of the relay's own events. @param {string} name @param {(payload: any) => void} told */
  #hear(name, told) {
    this.#source?.addEventListener(name, (event) => {
      const message = /** @type {MessageEvent} */ (event);
      this.#lastId = message.lastEventId;
      told(JSON.parse(message.data).payload);
    });
  }

  /** @param {MessageEvent} message */
  #take(message) {
    if (this.state === "refused") this.#become("live");
    this.#attempt = 0;
    this.#backlog += 1;
    const after = this.#resuming;
    this.#resuming = "";
    this.#lastId = message.lastEventId;
    this.#listener.event({ id: message.lastEventId, ...JSON.parse(message.data) });
    if (after) this.#listener.resumed(after);
  }

  #broke() {
    if (this.state === "live" || this.state === "slow") this.#become("reconnecting");
    this.#resuming = this.#lastId;
    if (this.#source?.readyState === EventSource.CLOSED) this.#askWhy();
  }

  /** An EventSource doesn't say what it was answered; a HEAD does, and opens no subscription. */
  async #askWhy() {
    const url = this.#url;
    const status = await fetch(url, { method: "HEAD" }).then((answer) => answer.status, () => 0);
    if (url !== this.#url || this.#source?.readyState !== EventSource.CLOSED) return;
    if ([204, 401, 403, 404].includes(status)) {
      this.close("ended");
      return;
    }
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#attempt++);
    this.#timer = setTimeout(() => this.open(url), longest * (0.5 + Math.random() / 2));
  }

  /** @param {State} state */
  #become(state) {
    if (this.state === state) return;
    this.state = state;
    this.#listener.state(state);
  }
}
