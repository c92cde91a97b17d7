// The operator console: draws what /events sends every second, and asks /explain whom a hash or an event's id means.

import { Charts } from './charts.js';
import { bars, fill, say } from './tables.js';
import { age, bytes, CODES, delay, GAPS, number, plural, rate, REASONS, STATES, sum } from './words.js';

const REOPEN_MS = 5000; // after an answer that an EventSource gives up for
const EXPLAIN_MS = 2000;
const HASH = /^[0-9a-f]{4,32}$/;

const $ = (id) => document.getElementById(id);
const show = (id, text) => say($(id), text);

let now = null;
let before = null; // the screen before, for rates
let paused = false;

const charts = new Charts($('charts'), $('chart'), [
  { title: 'Events a second', columns: [[3, 'out'], [2, 'in']], say: rate, least: 1 },
  { title: 'Delivery delay', columns: [[5, '99 %'], [4, 'half']], say: delay, least: 0.001 },
  { title: 'Client streams', columns: [[1]], say: number, least: 1 },
  { title: 'Gaps told', columns: [[6]], say: rate, least: 1, bars: true },
  { title: 'Requests refused', columns: [[7]], say: rate, least: 1, bars: true },
  { title: 'Event loop lag', columns: [[9, '99 %']], say: delay, least: 0.001 },
], (moment) => show('moment', moment));

// -- what comes every second

function perSecond(name, stream) {
  const time = before && now.uptime_s - before.uptime_s;
  const [last, first] = [now, before].map((screen) => screen?.traffic[stream]?.[name] ?? 0);
  return time > 0 ? Math.max(0, last - first) / time : null;
}

function draw() {
  if (!now) return;
  state(now.ready ? 'good' : 'bad', now.draining ? 'draining' : now.ready ? 'in service' : now.ready_reason);
  show('uptime', `up ${age(now.uptime_s)}`);
  show('version', now.version);
  show('subscribers', number(sum(now.subscribers)));
  show('upstream', number(Object.values(now.upstream).map(sum).reduce((a, b) => a + b, 0)));
  show('sharing', now.sharing === null ? '–' : `${number(now.sharing)} ×`);
  show('identity-count', number(now.identity_count));
  show('history', bytes(now.history_bytes));
  charts.draw();
  drawTables();
  for (const [name, words, none] of [['gaps', GAPS, 'No gap since the start.'], ['refusals', CODES, 'Nobody was refused.'], ['closes', REASONS, 'No stream has ended.']]) {
    bars($(name), now[name], words, none);
    show(`${name}-total`, sum(now[name]) ? `${sum(now[name]).toLocaleString('en')} since the start` : '');
  }
}

function drawTables() {
  const roles = (counts) => Object.entries(counts ?? {}).map(([role, n]) => `${number(n)} ${role}`).join(' · ') || '–';
  fill($('streams'), Object.keys(now.traffic), (name) => name, (name) => [
    name, number(now.subscribers[name] ?? 0), roles(now.feeds[name]), roles(now.upstream[name]),
    rate(perSecond('upstream_events', name)), rate(perSecond('deliveries', name)),
    delay(now.delays[name]?.p50_s), delay(now.delays[name]?.p99_s), number(now.traffic[name].gaps),
  ]);
  fill($('identities'), now.identities, (one) => one.identity, (one) => [{ hash: one.identity }, number(one.streams), number(one.feeds)]);
  show('identities-shown', of(now.identities.length, now.identity_count));
  fill($('replicas'), now.replicas, (one) => one.name, (one) => [
    one.name, one.name === now.replica ? 'this one' : '', number(one.streams), number(one.owned), one.state,
  ]);
  show('replicas-shown', now.replicas.length > 1 ? `${now.replicas.length} seen through Redis` : 'alone');
  fill($('feeds'), now.feed_list, (feed) => `${feed.identity} ${feed.stream}`, (feed) => [
    { hash: feed.identity }, feed.stream, feed.role, feed.state, number(feed.subscribers), feed.last_id,
    number(feed.events), bytes(feed.history_bytes), age(feed.age_s),
  ]);
  show('feeds-shown', of(now.feed_list.length, now.feed_count));
}

const of = (shown, all) => (shown < all ? `the ${shown} busiest of ${all.toLocaleString('en')}` : all || '');

function state(kind, words) {
  $('state').dataset.state = kind;
  show('words', words);
}

// -- the stream

function open() {
  const source = new EventSource('events');
  source.addEventListener('past', (event) => charts.begin(JSON.parse(event.data)));
  source.onmessage = (event) => {
    before = now;
    now = JSON.parse(event.data);
    if (now.point) charts.add(now.point);
    if (!paused) draw();
  };
  source.onerror = async () => {
    before = now = null;
    state('bad', 'no answer from the relay; asking again');
    if (source.readyState !== EventSource.CLOSED) return;
    state('bad', `${await refusal()} Asking again.`);
    setTimeout(open, REOPEN_MS);
  };
}

/** Why there is no stream: an EventSource doesn't say. */
async function refusal() {
  const asking = new AbortController();
  try {
    const answer = await fetch('events', { signal: asking.signal });
    return answer.ok ? '' : (await answer.json()).detail;
  } catch {
    return 'The relay gives no answer.';
  } finally {
    asking.abort();
  }
}

function pause(wanted) {
  paused = wanted;
  $('pause').setAttribute('aria-pressed', String(paused));
  document.body.classList.toggle('paused', paused);
  if (!paused) draw();
}

// -- explain an identity

let wanted = '';
let again = 0;

async function explain(text) {
  wanted = text.trim();
  clearTimeout(again);
  $('find').value = wanted;
  $('answer').hidden = !wanted;
  if (!wanted) return;
  // What is pasted by mistake is not sent anywhere.
  if (wanted.includes('lb_k_')) {
    $('find').value = wanted = '';
    tell('This looks like a key. Keys are not searched for, and this one was not sent; take the hash, or the id of an event.');
    return;
  }
  if (!document.body.classList.contains('explaining')) tell('Looking …');
  await look(wanted);
}

async function look(text) {
  let answer;
  try {
    const response = await fetch('explain', { method: 'POST', body: JSON.stringify({ find: text }) });
    answer = await response.json();
    if (!response.ok) throw new Error(answer.detail);
  } catch (error) {
    if (text === wanted) tell(`No answer: ${error.message}`);
    return;
  }
  if (text !== wanted) return; // something else was asked meanwhile
  drawAnswer(answer);
  again = setTimeout(() => (paused || document.hidden ? reschedule(text) : look(text)), EXPLAIN_MS);
}

function reschedule(text) {
  again = setTimeout(() => (paused || document.hidden ? reschedule(text) : look(text)), EXPLAIN_MS);
}

function tell(words) {
  show('found', words);
  show('answer-title', 'Identity');
  $('candidates').hidden = true;
  $('details').replaceChildren();
}

function drawAnswer({ by, count, identities }) {
  const names = Object.keys(identities);
  if (!count) {
    tell('Nobody here: no hash begins with this, and no history holds an event with this id. Who has no feed open is not known; other replicas have consoles of their own.');
    return;
  }
  const how = by === 'hash' ? 'by the hash' : 'by an event that they have';
  const tabs = (name) => identities[name].reduce((n, feed) => n + feed.facts.subscribers, 0);
  show('found', count === 1 ? `Found ${how}: ${plural(tabs(names[0]), 'tab')} on ${plural(identities[names[0]].length, 'feed')} here.` : `${plural(count, 'identity', 'identities')} found ${how}${count > names.length ? `; here are ${names.length}` : ''}. Choose one.`);
  show('answer-title', count === 1 ? names[0] : 'Which identity?');
  $('candidates').hidden = count === 1;
  fill($('candidates').querySelector('tbody'), count === 1 ? [] : names, (name) => name, (name) => [
    { hash: name }, number(tabs(name)),
    bytes(identities[name].reduce((n, feed) => n + feed.pending_bytes, 0)),
  ]);
  drawFeeds(count === 1 ? identities[names[0]] : []);
}

function drawFeeds(feeds) {
  const place = $('details');
  while (place.children.length > feeds.length) place.lastElementChild.remove();
  while (place.children.length < feeds.length) place.append($('feed').content.firstElementChild.cloneNode(true));
  feeds.forEach((feed, n) => drawFeed(place.children[n], feed));
}

function drawFeed(article, { facts, pending_bytes: pending, slow, tabs }) {
  const set = (name, text) => say(article.querySelector(name), text);
  set('h3', facts.stream);
  set('.role', facts.role);
  set('.owner', facts.owner || (facts.role === 'follower' ? 'not known yet' : 'this replica'));
  set('.source', facts.state);
  set('.streams', slow ? `${number(facts.subscribers)}, ${number(slow)} slow` : number(facts.subscribers));
  set('.pending', bytes(pending));
  set('.held', `${plural(facts.events, 'event')}, ${bytes(facts.history_bytes)}`);
  set('.last', facts.last_id);
  const wrap = article.querySelector('.wrap');
  wrap.setAttribute('aria-label', `Tabs on ${facts.stream}`);
  wrap.hidden = !tabs.length;
  fill(article.querySelector('tbody'), tabs.map((tab, n) => ({ ...tab, n })), (tab) => tab.n, (tab) => [
    tab.n + 1, STATES[tab.state] ?? tab.state, age(tab.age_s), bytes(tab.pending_bytes),
    tab.behind ? plural(tab.behind, 'event') : 'nothing', tab.last_id,
  ]);
  set('.more', tabs.length < facts.subscribers ? `The first ${tabs.length} of ${facts.subscribers.toLocaleString('en')} tabs.` : '');
}

/** A hash may stand in the address, so that it can be linked to and gone back to; other text may be anything. */
function ask(text) {
  const hash = text.trim().toLowerCase();
  if (HASH.test(hash) && location.hash !== `#${hash}`) location.hash = hash; // which asks
  else explain(text);
}

function leave() {
  if (location.hash) history.pushState(null, '', location.pathname);
  explain('');
}

// -- hands

$('search').addEventListener('submit', (event) => { event.preventDefault(); ask($('find').value); });
$('pause').addEventListener('click', () => pause(!paused));
$('close').addEventListener('click', () => { leave(); $('find').focus(); });
document.addEventListener('click', (event) => {
  const button = event.target.closest('button.hash');
  if (!button) return;
  ask(button.value);
  $('answer').scrollIntoView({ block: 'start' });
  $('answer-title').focus({ preventScroll: true });
});
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'Escape' && wanted + $('find').value) { leave(); $('find').focus(); }
  if (event.target.matches('input')) return;
  if (event.key === '/') { event.preventDefault(); $('find').focus(); }
  if (event.key === 'p') pause(!paused);
});
const fromAddress = () => explain(HASH.test(location.hash.slice(1)) ? location.hash.slice(1) : '');
window.addEventListener('hashchange', fromAddress);
window.addEventListener('popstate', fromAddress);

fromAddress();
open();
