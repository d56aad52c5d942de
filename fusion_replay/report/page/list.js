// The list: every step with its figures; filtered, sorted, and only the visible lines are in the document.
const list = (() => {
  const HIGH = 25, MORE = 12;
  const SORTS = { "": "order of the run", ...Object.fromEntries(data.columns.map((c) => [c, c])) };
  const WORDS = { distance: "of its limit", max_abs: "max abs", ulp_max: "max ULP", rel_l2: "rel L2", cosine: "cosine", failing: "failing" };
  let order = new Int32Array(0), body, box;

  function chosen() {
    const found = [], text = state.q.toLowerCase();
    for (let row = 0; row < rows.n; row++) {
      const [op, flow] = entry(row);
      if (state.op && op !== state.op) continue;
      if (state.only === "bad" && !badRows.has(row)) continue;
      if (state.only === "judged" && Number.isNaN(rows.figures.distance[row])) continue;
      if (text && !`${address(row)} ${op} ${flow}`.toLowerCase().includes(text)) continue;
      found.push(row);
    }
    const column = rows.figures[state.sort];
    if (column) {
      const sign = state.down === "up" ? 1 : -1, key = (r) => (Number.isNaN(column[r]) ? -Infinity * sign * -1 : column[r]);
      found.sort((a, b) => (key(a) === key(b) ? a - b : key(a) < key(b) ? -sign : sign));
    }
    return found;
  }

  /** Rows as they stand in the list now. */
  const inOrder = () => (order = chosen());

  function line(row, position) {
    const [op, flow] = entry(row), here = address(row) === state.step;
    const [word, tone] = STATES[rows.states[row]];
    const marks = rows.marks.get(row);
    return el("tr", { "aria-rowindex": position + 2, "aria-current": here ? "true" : null, on: { click: () => go({ step: address(row), tab: "step" }) } },
      el("td", {}, link(address(row))), el("td", {}, el("span", { class: `badge ${tone}` }, word + (marks ? `, ${marks.join(", ")}` : ""))), el("td", {}, name(op)), el("td", { title: flow }, name(flow)),
      data.columns.map((c) => el("td", { class: "n", title: Number.isNaN(rows.figures[c][row]) ? rows.reason.get(row) : rows.figures[c][row] }, Number.isNaN(rows.figures[c][row]) ? "" : fig(rows.figures[c][row]))));
  }

  function fill() {
    const from = Math.max(0, Math.floor(box.scrollTop / HIGH) - MORE), to = Math.min(order.length, from + Math.ceil(box.clientHeight / HIGH) + 2 * MORE);
    const pad = (n) => { const row = el("tr", { class: "pad", "aria-hidden": "true" }, el("td", { colspan: 4 + data.columns.length })); row.style.height = `${n * HIGH}px`; return row; };
    const lines = [];
    for (let i = from; i < to; i++) lines.push(line(order[i], i));
    body.replaceChildren(pad(from), ...lines, pad(order.length - to));
  }

  function header(column) {
    const active = state.sort === column, up = state.down === "up";
    const button = el("button", { type: "button", on: { click: () => go({ sort: column, down: active && !up ? "up" : "" }) } }, `${WORDS[column] || column}${active ? (up ? " ▲" : " ▼") : ""}`);
    return el("th", { class: "n", scope: "col", "aria-sort": active ? (up ? "ascending" : "descending") : null }, button);
  }

  function render(view) {
    inOrder();
    const ops = [...new Set(data.sequences.flatMap((s) => s.entries.map((e) => e[0])))].sort();
    const select = (key, words, options) => el("label", {}, words, el("select", { on: { change: (event) => go({ [key]: event.target.value }) } }, options.map(([value, text]) => el("option", { value, selected: state[key] === value }, text))));
    const search = el("input", { id: "search", type: "search", value: state.q, placeholder: "buffer, operator, address", on: { input: (event) => go({ q: event.target.value }) } });
    const tools = el("div", { class: "tools" }, el("label", {}, "Find", search),
      select("op", "Operator", [["", "all"], ...ops.map((o) => [o, o])]), select("only", "Show", [["", "all"], ["bad", "bad ones"], ["judged", "judged"]]),
      select("sort", "Sort by", Object.entries(SORTS).map(([v, t]) => [v, WORDS[v] || t])), el("span", { class: "soft", role: "status", id: "found" }, `${order.length.toLocaleString("en")} of ${count(rows.n, "step")}`));
    body = el("tbody");
    box = el("div", { class: "body", tabindex: "0", role: "region", "aria-label": "Steps" }, el("table", { "aria-rowcount": order.length + 1 },
      el("thead", {}, el("tr", {}, ["step", "verdict", "operator", "buffers"].map((t) => el("th", { scope: "col" }, t)), data.columns.map(header))), body));
    box.addEventListener("scroll", () => requestAnimationFrame(fill));
    const held = document.activeElement && document.activeElement.id === "search" ? document.activeElement.selectionStart : null;
    view.replaceChildren(el("section", { id: "list" }, tools, order.length ? box : el("p", { class: "card" }, "No step fits these filters.")));
    if (held !== null) { search.focus(); search.setSelectionRange(held, held); }
    if (order.length) { const at = order.indexOf(rows.at.get(state.step)); if (at > 0) box.scrollTop = at * HIGH - box.clientHeight / 3; fill(); }
  }

  return { render, inOrder };
})();
