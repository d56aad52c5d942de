// Elements and words. Every text goes in as text: nothing in this page is ever parsed as markup.
function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) made.addEventListener(event, handler);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** A name that a stranger wrote. */
const name = (text) => el("bdi", { class: "name" }, text);
const $ = (id) => document.getElementById(id);

/** Three significant digits; the exact value belongs into a title. */
function fig(x) {
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e6 || size < 1e-3) return x.toExponential(2);
  return (+x.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 20 });
}
const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : what.endsWith("s") ? "" : "s"}`;
function bytes(n) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let k = 0;
  while (n >= 999.5 && k < 4) { n /= 1000; k++; }
  return `${k ? +n.toPrecision(3) : n} ${units[k]}`;
}

function link(where, text, title) {
  return el("a", { href: `#step=${where}`, title, on: { click: (event) => { event.preventDefault(); go({ step: where, tab: "step" }); } } }, text || where);
}

/** An address as a link to its step, where the recording has it. */
function stepLink(where) {
  const row = rows.at.get(where);
  return row === undefined ? el("span", {}, where) : link(where, where, label(row));
}

function table(head, body, caption, numbers) {
  const right = new Set(numbers || []);
  const cell = (kind) => (value, i, line, tag = value === "" ? "td" : kind) => el(tag, { class: right.has(i) ? "n" : null, scope: tag === "th" ? "col" : null }, value instanceof Node ? value : String(value));
  return el("table", {}, el("caption", { class: "soft", hidden: !caption }, caption || ""), el("thead", {}, el("tr", {}, head.map(cell("th")))),
    el("tbody", {}, body.map((line) => el("tr", {}, line.map(cell("td"))))));
}

/** What may be wider than the screen: it scrolls by itself, by keyboard too. */
const scrolled = (words, child) => el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": words }, child);

function showTip(text, x, y) {
  const tip = $("tip");
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 8))}px`;
  tip.style.top = `${y + 16 + box.height > innerHeight ? y - box.height - 8 : y + 16}px`;
}
