// The story of the relay in numbers: who reads, what is asked of Le Bureau, what came and what was handed on.

import { PATHS } from "./tab.js";
import { STREAMS, plural } from "./words.js";

const NAMES = /** @type {(keyof typeof PATHS)[]} */ (Object.keys(PATHS));
// The numbers come a second later than what they tell of, and a silence is found out within some seconds.
const CALM_MS = 3000;
// Looks in vain, about a second each; a restart takes two.
const PATIENCE = 8;

export class Story {
  #picture;
  #tell;
  #unanswered = 0;
  /** @type {any} */ #last;
  /** @type {number | undefined} */ #calmSince;

  /**
   * @param {import("./picture.js").Picture} picture
   * @param {(tone: "info" | "good", words: string) => void} tell
   */
  constructor(picture, tell) {
    this.#picture = picture;
    this.#tell = tell;
  }

  /** Whether this page's own streams are live. @param {boolean} live */
  calm(live) {
    this.#calmSince = live ? this.#calmSince ?? Date.now() : undefined;
  }

  /** The relay, which serves this page too, does not answer. */
  away() {
    this.#unanswered += 1;
    this.#picture.relay(false);
    const gone = this.#unanswered > PATIENCE ? "Nobody answers. Is the demo still running?" : "The relay is restarting.";
    show("headline", navigator.onLine ? gone : "This browser has no network.");
  }

  /** @param {any} state what the demo says @returns {number | undefined} tabs open, this page's and others */
  draw(state) {
    this.#unanswered = 0;
    for (const name of NAMES) this.#picture.upstream(name, state.upstream[name] > 0);
    this.#picture.relay(Boolean(state.relay));
    const upstream = sum(state.upstream);
    show("upstream", upstream);
    show("upstream-word", plural(upstream, "upstream subscription"));
    show("upstream-each", each(state.upstream));
    this.#tellOfUpstream(state);
    this.#last = state;
    return state.relay ? this.#drawRelay(state.relay, upstream) : undefined;
  }

  #drawRelay({ subscribers, totals }, upstream) {
    const tabs = Math.max(...NAMES.map((name) => subscribers[name] ?? 0));
    const streams = sum(subscribers);
    show("tabs", tabs);
    show("tabs-word", `${plural(tabs, "tab")} open`);
    show("tabs-each", each(subscribers));
    show("headline", tabs
      ? `${tabs} ${plural(tabs, "tab")} open. Le\u00a0Bureau sees ${upstream ? "one" : "none, just now"}.`
      : "No tab is being served.");
    show("factor", upstream && streams ? `× ${(streams / upstream).toLocaleString([], { maximumFractionDigits: 1 })}` : "–");
    show("received", totals.upstream_events.toLocaleString());
    show("delivered", totals.deliveries.toLocaleString());
    show("gaps", totals.gaps.toLocaleString());
    const most = Math.max(totals.upstream_events, totals.deliveries, 1);
    bar("received-bar", totals.upstream_events / most);
    bar("delivered-bar", totals.deliveries / most);
    return tabs;
  }

  /** What the simulator has seen of the relay since the last look. */
  #tellOfUpstream(state) {
    const last = this.#last;
    if (!last) return;
    if (state.restarts > last.restarts) this.#tell("info", "The relay has restarted; it knows nothing but what its tabs tell it.");
    const reopened = NAMES.filter((name) => state.opened[name] > last.opened[name] && last.opened[name] > 0);
    if (!reopened.length) return;
    const which = reopened.map((name) => STREAMS[name]).join(" and ");
    const calm = this.#calmSince && Date.now() - this.#calmSince > CALM_MS;
    this.#tell("good", `Le Bureau: the relay has asked anew for ${which}.${calm ? " The tabs stayed connected meanwhile." : ""}`);
  }
}

/** Put a text where it stands, if it is another one. @param {string} id @param {unknown} text */
export function show(id, text) {
  const element = document.getElementById(id);
  if (element && element.textContent !== String(text)) element.textContent = String(text);
}

/** @param {string} id @param {number} part */
function bar(id, part) {
  document.getElementById(id)?.style.setProperty("--part", part.toFixed(4));
}

const sum = (counts) => NAMES.reduce((total, name) => total + (counts[name] ?? 0), 0);
const each = (counts) => NAMES.map((name) => `${STREAMS[name]} ${counts[name] ?? 0}`).join(" · ");
