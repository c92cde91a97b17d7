// The page: a tab of its own and as many more as wanted, what is shown of them, and the orders.

import { Chronicle } from "./chronicle.js";
import { Faults, Refused, order } from "./faults.js";
import { Feed } from "./feed.js";
import { Picture } from "./picture.js";
import { Story, show } from "./story.js";
import { PATHS, Tab } from "./tab.js";
import { Wall } from "./wall.js";
import { CLOSINGS, GAPS, REFUSALS, STATES, STREAMS, capital, ordinal, plural, say } from "./words.js";

const MORE = 5;
const MOST_TABS = 21;
const POLL_MS = 1000;
const WINDOWS = 9;

const $ = (id) => /** @type {any} */ (document.getElementById(id));
const chronicle = new Chronicle($("log"));
const tell = chronicle.tell.bind(chronicle);
const wall = new Wall($("desktops"), $("desktop"), (names) => feed.desktops(names));
const feed = new Feed(
  { list: $("feed"), desktop: $("by-desktop"), type: $("by-type"), pause: $("pause"), older: $("older"), count: $("count") },
  (id) => wall.name(id),
);
const picture = new Picture($("picture"));
const story = new Story(picture, tell);
const faults = new Faults(document.querySelectorAll("[data-order]"), {
  slow: async () => {
    if (tabs[0].state !== "live") throw new Refused("This tab reads nothing just now.");
    tabs[0].hold();
    await order("flood");
  },
  "read-on": () => { tabs[0].release(); },
  offline: () => goOffline(true),
  online: () => goOffline(false),
}, tell);
/** @type {Tab[]} */
const tabs = [];
/** @type {string | null | undefined} */
let key;
let offline = false;
let drawn = "";
let letGo = false;
/** Events that wait for the list of desktops, which was asked for after the stream had opened. */
let held;

// What the tabs say

function take(tab, name, event) {
  picture.pulse(tabs.indexOf(tab), name);
  show("missed", tabs.reduce((sum, each) => sum + each.missed, 0).toLocaleString());
  if (tab !== tabs[0]) return;
  if (name === "activity") feed.take(event);
  else if (held) held.push(event);
  else wall.take(event);
}

function news(tab, name, what, detail) {
  picture.mark(tabs.indexOf(tab), tab.state);
  if (tab !== tabs[0]) return;
  const stream = STREAMS[name];
  if (what === "state") changed(name, detail);
  else if (what === "resumed") tell("good", `${stream}: back, and resumed after event ${ordinal(detail)}. Nothing was lost.`);
  else if (what === "lost") tell("bad", `${stream}: back after event ${ordinal(detail)}, but the numbers show a hole that nobody told of.`);
  else if (what === "caughtUp") tell("good", `${stream}: read on. ${detail} ${plural(detail, "event")} had waited for this tab; nothing was lost.`);
  else if (what === "refused") tell("bad", `${stream}: refused for now, because ${say(REFUSALS, detail)}. It will try again.`);
  else if (what === "closing") tell("info", `${stream}: the relay closes the stream, because ${say(CLOSINGS, detail)}.`);
  else if (what === "gap") {
    const others = tabs.slice(1);
    const calm = detail === "slow" && others.length && !others.some((each) => each.missed);
    const rest = calm ? ` The other ${others.length} tabs had everything.` : "";
    tell("bad", `${stream}: a gap. ${capital(say(GAPS, detail))}; the page fetches the present state anew.${rest}`);
    if (name === "activity") feed.gap(say(GAPS, detail));
    else fetchDesktops();
  }
}

function changed(name, state) {
  const worst = tabs[0].state;
  const { text, shape } = STATES[worst];
  const pill = $("connection");
  pill.dataset.state = worst;
  pill.querySelector("use").setAttribute("href", `#${shape}`);
  pill.querySelector("span").textContent = text;
  story.calm(worst === "live");
  if (name !== "desktops") return;
  $("wall").dataset.state = state;
  faults.wear("slow", state === "slow" ? "read-on" : "slow");
  if (state === "live") fetchDesktops();
  if (state !== "slow") letGo = false;
}

/** The present state, as an application fetches it at its start and after a gap. */
async function fetchDesktops() {
  held ??= [];
  try {
    wall.list(await (await fetch("/demo/desktops")).json());
  } catch {
    // The relay is away; the stream's next opening asks again.
  } finally {
    for (const event of held ?? []) wall.take(event);
    held = undefined;
  }
}

// The tabs

/** Have so many tabs. */
function open(count) {
  while (tabs.length > count) tabs.pop()?.close();
  while (tabs.length < count) {
    const origin = tabs.length ? `http://tab${tabs.length}.localhost:${location.port}` : "";
    const tab = new Tab(origin, { event: take, news });
    tabs.push(tab);
    if (offline) tab.close("offline");
    else if (key) tab.open(key);
  }
  drawTabs(0);
  $("more").disabled = count >= MOST_TABS;
  $("fewer").disabled = count === 1;
}

/** Draw the tabs, and so many of other windows. */
function drawTabs(others) {
  if (drawn === `${tabs.length}+${others}`) return;
  drawn = `${tabs.length}+${others}`;
  picture.draw(tabs.length, others);
  tabs.forEach((tab, n) => picture.mark(n, tab.state));
}

function goOffline(gone) {
  offline = gone;
  faults.wear("offline", gone ? "online" : "offline");
  for (const tab of tabs) {
    if (gone) tab.close("offline");
    else if (key) tab.open(key);
    else tab.close("ended");
  }
}

function changeKey(next) {
  key = next;
  faults.wear("withdraw", key ? "withdraw" : "give-back");
  if (!key) return;
  show("curl", `curl -N -H 'x-api-key: ${key}' ${location.origin}${PATHS.desktops}`);
  if (!offline) for (const tab of tabs) tab.open(key);
}

// The numbers

async function poll() {
  // What was counted before it stopped says nothing: its old stream had ended, perhaps, and its new one not begun.
  const stopped = tabs[0].held;
  try {
    if (!document.hidden || key === undefined) draw(await (await fetch("/demo/state")).json(), stopped);
  } catch {
    story.away();
  }
  setTimeout(poll, POLL_MS);
}

function draw(state, stopped) {
  if (state.key !== key) changeKey(state.key);
  const count = story.draw(state);
  if (count !== undefined) drawTabs(Math.max(0, count - tabs.length));
  const { desktops = 0, activity = 0 } = state.relay?.subscribers ?? {};
  if (stopped && tabs[0].held && desktops < activity && !letGo) {
    letGo = true;
    tell("bad", "The relay has let this tab’s Desktops go, since it took nothing. Let it read on, and see.");
  }
}

// A page of another name would be a fourth of six connections short; each window gets its own.
const windowName = `window${1 + Math.floor(Math.random() * WINDOWS)}.localhost`;
$("window").href = `http://${windowName}:${location.port}/`;
$("more").addEventListener("click", () => open(Math.min(tabs.length + MORE, MOST_TABS)));
$("fewer").addEventListener("click", () => open(1));
addEventListener("offline", () => tell("bad", "The browser says that the network is gone."));
addEventListener("online", () => {
  tell("info", "The browser says that the network is back.");
  if (!offline) for (const tab of tabs) tab.retry();
});
addEventListener("pagehide", () => tabs.forEach((tab) => tab.close()));
addEventListener("pageshow", (event) => {
  if (event.persisted && key && !offline) for (const tab of tabs) tab.open(key);
});
open(1);
poll();
