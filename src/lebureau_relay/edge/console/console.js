// The console: draws the snapshot that /events sends every second. Whatever comes from a snapshot is set as
// text, never as markup: event ids and stream names come from outside.

const $ = (id) => document.getElementById(id);
const show = (id, text) => { $(id).textContent = text; };
const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);
const count = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

const PULSE = 120; // two minutes
const pulse = [];
let before = null;

function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${n.toFixed(unit && n < 10 ? 1 : 0)} ${units[unit]}`;
}

function age(s) {
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

function perSecond(now, name) {
  const time = before && now.uptime_s - before.uptime_s;
  return time > 0 ? Math.max(0, now.totals[name] - before.totals[name]) / time : null;
}

function row(feed) {
  const tr = document.createElement('tr');
  const cells = [
    feed.identity.slice(0, 12), feed.stream, feed.role, feed.state, feed.subscribers,
    feed.events, bytes(feed.history_bytes), age(feed.age_s),
  ];
  for (const text of cells) tr.insertCell().textContent = text;
  tr.cells[0].title = feed.identity;
  return tr;
}

function drawPulse(rate) {
  if (rate === null) return; // one snapshot makes no rate
  pulse.push(rate);
  if (pulse.length > PULSE) pulse.shift();
  const top = Math.max(1, ...pulse);
  const points = pulse.map((r, i) => `${PULSE - pulse.length + i},${29 - 28 * r / top}`);
  $('pulse').firstElementChild.setAttribute('points', points.join(' '));
}

function draw(now) {
  const state = now.draining ? 'draining' : now.ready ? 'in service' : now.ready_reason;
  show('state', `${state} · up ${age(now.uptime_s)}`);
  $('state').className = now.ready ? '' : 'bad';
  show('version', now.version);
  show('subscribers', count.format(sum(now.subscribers)));
  show('upstream', count.format(Object.values(now.upstream).map(sum).reduce((a, b) => a + b, 0)));
  show('sharing', now.sharing === null ? '–' : `${count.format(now.sharing)} ×`);
  for (const [id, name] of [['events', 'upstream_events'], ['deliveries', 'deliveries']]) {
    const rate = perSecond(now, name);
    show(id, rate === null ? '–' : count.format(rate));
    if (id === 'deliveries') drawPulse(rate);
  }
  show('gaps', count.format(now.totals.gaps));
  show('refusals', count.format(now.totals.refusals));
  show('history', bytes(now.history_bytes));
  const shown = now.feed_list.length;
  show('feed-count', shown < now.feed_count ? `the ${shown} busiest of ${now.feed_count}` : now.feed_count);
  $('feeds').replaceChildren(...now.feed_list.map(row));
  $('quiet').hidden = shown > 0;
  before = now;
}

const source = new EventSource('events');
source.onmessage = (message) => draw(JSON.parse(message.data));
source.onerror = () => {
  before = null;
  show('state', 'no answer from the relay');
  $('state').className = 'bad';
};
