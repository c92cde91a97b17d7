// The page: one tab of its own and as many more as wanted, the numbers, the orders, and what came of them.

import { Feed } from "./feed.js";
import { Picture } from "./picture.js";
import { PATHS, Tab } from "./tab.js";
import { Wall } from "./wall.js";
import { CLOSINGS, GAPS, REFUSALS, STATES, STREAMS, now, plural, say } from "./words.js";

const MORE = 5;
const MOST_TABS = 21;
const LOG_LINES = 40;
const POLL_MS = 1000;
const WINDOWS = 9;
// The numbers come a poll later than what they tell of, and a silence is found out within some seconds.
const CALM_MS = 3000;
const ORDERS = {
  cut: "You cut Le Bureau’s connections.",
  silence: "You silenced Le Bureau: its connections stay open, and mute.",
  forget: "You made Le Bureau forget what it has sent, and cut its connections.",
  restart: "You restarted the relay.",
  withdraw: "You withdrew the key.",
  "give-back": "You gave the user a new key.",
};

const $ = (id) => document.getElementById(id);
const wall = new Wall($("desktops"), $("desktop"));
const feed = new Feed($("feed"), (id) => wall.name(id));
const picture = new Picture($("picture"));
/** @type {Tab[]} */
const tabs = [];
/** @type {string | null | undefined} */
let key;
let last;
let drawn = "";
let liveSince = Infinity;
/** Events that wait for the list of desktops, which was asked for after the stream had opened. */
let held;

/** What happened, in a sentence. @param {"info" | "good" | "bad"} tone */
function log(tone, words) {
  const list = $("log");
  list.querySelector(".nothing")?.remove();
  const line = document.createElement("li");
  line.dataset.tone = tone;
  line.innerHTML = "<time></time><span></span>";
  line.querySelector("time").textContent = now();
  line.querySelector("span").textContent = words;
  list.prepend(line);
  while (list.children.length > LOG_LINES) list.lastElementChild.remove();
}

function show(id, text) {
  if ($(id).textContent !== String(text)) $(id).textContent = text;
}

// The tabs

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
  if (what === "state") {
    drawConnection();
    if (detail === "live" && name === "desktops") fetchDesktops();
  } else if (what === "resumed") log("good", `${stream}: back, and resumed after ${detail}. Nothing was lost.`);
  else if (what === "lost") log("bad", `${stream}: back after ${detail}, but the numbers show a hole that nobody told of.`);
  else if (what === "refused") log("bad", `${stream}: refused for now, because ${say(REFUSALS, detail)}. It will try again.`);
  else if (what === "closing") log("info", `${stream}: the relay closes the stream, because ${say(CLOSINGS, detail)}.`);
  else if (what === "gap") {
    log("bad", `${stream}: a gap. ${capital(say(GAPS, detail))}; the page fetches the present state anew.`);
    if (name === "activity") feed.gap(say(GAPS, detail));
    else fetchDesktops();
  }
}

const capital = (words) => words[0].toUpperCase() + words.slice(1);

function drawConnection() {
  liveSince = tabs[0].state === "live" ? Math.min(liveSince, Date.now()) : Infinity;
  const { text, shape } = STATES[tabs[0].state];
  const pill = $("connection");
  pill.dataset.state = tabs[0].state;
  pill.querySelector("use").setAttribute("href", `#${shape}`);
  pill.querySelector("span").textContent = text;
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

/** Have so many tabs. */
function open(count) {
  while (tabs.length > count) tabs.pop().close();
  while (tabs.length < count) {
    const origin = tabs.length ? `http://tab${tabs.length}.localhost:${location.port}` : "";
    const tab = new Tab(origin, { event: take, news });
    tabs.push(tab);
    if (key) tab.open(key);
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

// The numbers

async function poll() {
  try {
    if (!document.hidden || !last) draw(await (await fetch("/demo/state")).json());
  } catch {
    // The relay, which serves this too, is restarting.
  }
  setTimeout(poll, POLL_MS);
}

function draw(state) {
  if (state.key !== key) changeKey(state.key);
  const names = Object.keys(PATHS);
  for (const name of names) picture.upstream(name, state.upstream[name] > 0);
  const upstream = names.reduce((sum, name) => sum + state.upstream[name], 0);
  show("upstream", upstream);
  show("upstream-each", names.map((name) => `${STREAMS[name]} ${state.upstream[name]}`).join(" · "));
  tellOfUpstream(state, names);
  last = state;
  if (!state.relay) return;
  const { subscribers, totals } = state.relay;
  const count = Math.max(...names.map((name) => subscribers[name] ?? 0));
  drawTabs(Math.max(0, count - tabs.length));
  show("tabs", count);
  show("tabs-word", plural(count, "open tab"));
  show("tabs-each", names.map((name) => `${STREAMS[name]} ${subscribers[name] ?? 0}`).join(" · "));
  show("headline", count
    ? `${count} ${plural(count, "tab")} open. Le\u00a0Bureau sees ${upstream ? "one" : "none, just now"}.`
    : "No tab is being served.");
  const streams = names.reduce((sum, name) => sum + (subscribers[name] ?? 0), 0);
  show("factor", upstream && streams ? `× ${(streams / upstream).toLocaleString([], { maximumFractionDigits: 1 })}` : "–");
  show("received", totals.upstream_events.toLocaleString());
  show("delivered", totals.deliveries.toLocaleString());
  show("gaps", totals.gaps.toLocaleString());
}

/** What the simulator has seen of the relay since the last look. */
function tellOfUpstream(state, names) {
  if (!last) return;
  if (state.restarts > last.restarts) log("info", "The relay has restarted; it knows nothing but what its tabs tell it.");
  const reopened = names.filter((name) => state.opened[name] > last.opened[name] && last.opened[name] > 0);
  if (reopened.length) {
    const which = reopened.map((name) => STREAMS[name]).join(" and ");
    const calm = Date.now() - liveSince > CALM_MS ? " The tabs stayed connected meanwhile." : "";
    log("good", `Le Bureau: the relay has subscribed anew to ${which}.${calm}`);
  }
}

function changeKey(next) {
  key = next;
  show("key", key ? "Withdraw the key" : "Give a new key");
  show("key-why", key ? "The relay finds out by itself, within two seconds." : "The same user’s: it finds the old feed.");
  $("key").closest("button").dataset.order = key ? "withdraw" : "give-back";
  if (!key) return;
  show("curl", `curl -N -H 'x-api-key: ${key}' ${location.origin}${PATHS.desktops}`);
  for (const tab of tabs) tab.open(key);
}

async function order(button) {
  const name = button.dataset.order;
  button.disabled = true;
  try {
    const answer = await fetch(`/demo/orders/${name}`, { method: "POST" });
    log(answer.ok ? "info" : "bad", answer.ok ? ORDERS[name] : "The demo did not take that order.");
  } catch {
    log("bad", "The relay is away just now; try again in a moment.");
  }
  button.disabled = false;
}

// A page of another name would be a fourth of six connections short; each window gets its own.
const windowName = `window${1 + Math.floor(Math.random() * WINDOWS)}.localhost`;
$("window").href = `http://${windowName}:${location.port}/`;
$("more").addEventListener("click", () => open(Math.min(tabs.length + MORE, MOST_TABS)));
$("fewer").addEventListener("click", () => open(1));
for (const button of document.querySelectorAll("[data-order]"))
  button.addEventListener("click", () => order(button));
addEventListener("pagehide", () => tabs.forEach((tab) => tab.close()));
addEventListener("pageshow", (event) => {
  if (event.persisted && key) tabs.forEach((tab) => tab.open(key));
});
open(1);
poll();
