// Rows that stay what they are while their numbers change, so that neither focus nor a pointer loses its place. Whatever comes
// from the relay is set as text, never as markup: ids of events and names of streams come from outside.

const DIGITS = 12; // of a hash on screen: enough to tell identities apart, and to search by

/** Let `body` have one row an item. `cells` gives a text each, or `{ hash }`, which becomes a button. */
export function fill(body, items, key, cells) {
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  const times = {};
  items.forEach((item, place) => {
    let name = key(item);
    times[name] = (times[name] ?? 0) + 1;
    name = `${name} ${times[name]}`;
    const row = known.get(name) ?? document.createElement('tr');
    known.delete(name);
    row.dataset.key = name;
    cells(item).forEach((what, n) => put(row.cells[n] ?? row.insertCell(), what));
    if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] ?? null);
  });
  for (const row of known.values()) row.remove();
  if (focused?.isConnected) focused.focus({ preventScroll: true });
  const empty = document.querySelector(`[data-for="${body.id}"]`);
  if (empty) {
    empty.hidden = items.length > 0;
    body.closest('.wrap').hidden = items.length === 0;
  }
}

/** Set a text, if it is another one. */
export function say(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

function put(cell, what) {
  if (typeof what !== 'object') return say(cell, what);
  let button = cell.firstElementChild;
  if (!button) {
    button = document.createElement('button');
    button.className = 'hash';
    button.type = 'button';
    cell.append(button);
  }
  if (button.value === what.hash) return undefined;
  button.value = what.hash;
  button.textContent = what.hash.slice(0, DIGITS);
  button.title = `Explain ${what.hash}`;
  return undefined;
}

/** Counts by name as bars, the largest first, each with its meaning. */
export function bars(list, counts, words, none) {
  const known = Object.entries(counts).sort((a, b) => b[1] - a[1]);
  const largest = known.length ? known[0][1] : 1;
  const lines = known.map(([name, n]) => {
    const line = [...list.children].find((one) => one.dataset.name === name) ?? bar(name, words[name]);
    say(line.querySelector('b'), n.toLocaleString('en'));
    line.querySelector('i').style.width = `${Math.max(1, (100 * n) / largest)}%`;
    return line;
  });
  if (!lines.length) {
    const line = list.querySelector('.none') ?? document.createElement('li');
    line.className = 'none';
    say(line, none);
    lines.push(line);
  }
  if (lines.length !== list.children.length || lines.some((line, n) => list.children[n] !== line)) list.replaceChildren(...lines);
}

function bar(name, meaning) {
  const [line, code, count, words, track] = ['li', 'code', 'b', 'span', 'i'].map((tag) => document.createElement(tag));
  line.dataset.name = name;
  code.textContent = name;
  words.textContent = meaning ?? '';
  track.ariaHidden = 'true';
  line.append(code, count, words, track);
  return line;
}
