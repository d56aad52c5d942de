// A step, as data flows: inputs, the operator with its limits, outputs as pictures; then cause, readers and figures.
const stepView = (() => {
  const WORDS = data.kind === "diff" ? ["B (new)", "A (old)"] : ["Actual", "Expected"];

  function render(view) {
    const row = rows.at.get(state.step), panel = data.panels[state.step];
    if (row === undefined) {
      view.replaceChildren(el("p", { class: "card" }, state.step ? `The recording has no step ${state.step}.` : "Choose a step in the strip or the list; ? tells the keys."));
      return;
    }
    view.replaceChildren(head(row, panel), panel ? inFull(panel) : summary(row));
  }

  function head(row, panel) {
    const [word, tone] = STATES[rows.states[row]], marks = rows.marks.get(row) || [];
    return el("div", { class: "step-head" }, el("h2", {}, name(`${address(row)} ${entry(row)[0]}`)), el("span", { class: `badge ${tone}` }, word),
      marks.map((m) => el("span", { class: "badge warn" }, m)), el("span", { class: "soft" }, name(entry(row)[1])),
      panel ? el("span", { class: "soft" }, [panel.ran_on, panel.time].filter(Boolean).join(", ")) : null);
  }

  /** A step whose arrays are not in the page. */
  function summary(row) {
    const judged = !Number.isNaN(rows.figures.distance[row]);
    const lines = data.columns.map((c) => [c, Number.isNaN(rows.figures[c][row]) ? "" : String(rows.figures[c][row])]);
    const uses = entry(row)[2].map(([buffer, start, end, reads, writes, arg]) => [name(arg), reads && writes ? "in, out" : writes ? "out" : "in", name((data.sequences[rows.sequence[row]].buffers[buffer] || ["?"])[0]), `${start.toLocaleString("en")} to ${end.toLocaleString("en")}`]);
    const command = data.command.replace("{step}", address(row));
    return el("div", {}, el("p", { class: "card" }, rows.reason.get(row) ? `Not judged: ${rows.reason.get(row)}. ` : "This step is here as figures alone. ", command ? el("span", {}, "For its arrays: ", el("code", {}, command)) : ""),
      el("div", { class: "two-columns" }, judged ? table(["figure", "value"], lines, "", [1]) : "", table(["operand", "", "buffer", "bytes"], uses, "", [3])));
  }

  function inFull(panel) {
    const box = el("div", {});
    const cause = causes(panel);
    const outputs = el("section", { class: "outputs" }, el("h3", {}, "Output"));
    const limits = el("div", {});
    for (const output of panel.outputs || []) outputs.append(outputBox(panel, output, limits));
    if (!(panel.outputs || []).length) outputs.append(el("p", { class: "card" }, panel.reason ? `Not judged: ${panel.reason}.` : panel.empty || panel.error || "No output was compared."));
    box.append(cause, el("div", { class: "flow" },
      el("section", {}, el("h3", {}, "Inputs"), panel.inputs.map(inputBox)),
      el("section", {}, el("h3", {}, "Operator"), operatorBox(panel), limits, readersBox(panel)),
      outputs));
    box.append(el("details", { open: true }, el("summary", {}, "All figures"), figures(panel.facts)));
    return box;
  }

  function causes(panel) {
    if (!(panel.causes || []).length) return "";
    return el("div", { class: "card" }, panel.causes.map((c, i) => el("p", {}, el("span", { class: `badge ${c.grade === "proved" ? "bad" : c.grade === "consistent" ? "warn" : "plain"}` }, c.grade), " ",
      el("strong", {}, name(c.name)), ": ", name(c.says), ". ", el("span", { class: "soft" }, c.graded, c.evidence.chance < 1 ? ` By chance: ${fig(c.evidence.chance)}.` : ""))));
  }

  function inputBox(input) {
    const canvas = el("canvas", { role: "img", "aria-label": `Input ${input.name}: ${input.shape.join(" by ")}, ${input.range || "not kept"}` });
    if (input.map && canInflate) inputMap(input, canvas);
    return el("div", { class: "card" }, el("div", {}, el("strong", {}, name(input.name)), " ", name(input.buffer)), input.map && canInflate ? canvas : null,
      el("div", { class: "soft" }, `${input.shape.join(" × ") || "scalar"} ${input.dtype}, ${input.size}`), input.range ? el("div", {}, input.range) : "",
      input.absent ? el("div", {}, input.absent) : "", el("div", {}, "from ", input.sources.length ? input.sources.map((s, i) => [i ? ", " : "", s.from === "outside" ? "outside" : s.from === "unseen" ? "a step that was not recorded" : stepLink(s.from), s.changed ? el("span", { class: "badge bad" }, "changed since") : ""]) : "outside"),
      input.changed ? el("div", { class: "badge bad" }, input.changed) : "", el("div", { class: "soft mono" }, input.digest));
  }

  function operatorBox(panel) {
    const shown = panel.params.slice(0, 14), more = panel.params.slice(14);
    return el("div", { class: "card" }, figures([...shown, ...panel.values.map(([k, v]) => [`value ${k}`, v])]), more.length ? el("details", {}, el("summary", {}, `${more.length} more`), figures(more)) : "",
      panel.error ? el("p", { class: "badge bad" }, panel.error) : "", panel.moves ? el("p", { class: "soft" }, "It moves data: any difference of bits fails.") : "");
  }

  const figures = (pairs) => el("dl", { class: "figures" }, pairs.flatMap(([k, v]) => [el("dt", {}, name(k)), el("dd", {}, name(v))]));

  /** The limits can be moved: how many elements would fail is counted for each stop. */
  function slider(output, changed) {
    const { factors, counts, allowed, by, passes, limits } = output.slider, one = factors.indexOf(1);
    const nearest = state.limit ? factors.reduce((best, f, i) => (Math.abs(f - state.limit) < Math.abs(factors[best] - state.limit) ? i : best), 0) : one;
    const said = el("output", {});
    const tell = (i) => { said.textContent = `limits × ${fig(factors[i])}: ${counts[i].toLocaleString("en")} of ${output.elements.toLocaleString("en")} fail${allowed ? `, ${allowed.toLocaleString("en")} may` : ""}${counts[i] <= allowed ? ": would match" : ""}`; };
    const range = el("input", { type: "range", min: 0, max: factors.length - 1, value: nearest, "aria-label": `Factor on the limits of ${output.name}`, list: "",
      on: { input: (event) => { const i = Number(event.target.value); tell(i); go({ limit: i === one ? "" : String(factors[i]) }); changed(); } } });
    tell(nearest);
    return el("div", { class: "card slider" }, el("div", {}, el("strong", {}, `Limits of ${output.name}`), ` (${by})`), el("div", { class: "soft" }, limits), range, said,
      el("div", { class: "soft" }, passes === null ? "No factor accepts every element." : `All pass from × ${fig(passes)} on.`));
  }

  function outputBox(panel, output, limits) {
    const cursor = el("div", { class: "cursor", role: "status", "aria-live": "polite" }), maps = el("div", {});
    const box = el("div", {}, el("div", {}, el("strong", {}, name(output.name)), " ", name(output.buffer), el("span", { class: "soft" }, ` ${output.shape.join(" × ") || "scalar"} ${output.dtype}, ${output.size}${output.unchanged ? "; every bit as it was before the step" : ""}`)),
      el("p", {}, name(output.detail)), maps, cursor);
    let shown = null;
    limits.append(slider(output, () => shown && shown.redraw()));
    if (output.maps === null) maps.append(el("p", { class: "card" }, "There was no room for this output's maps; a larger --html-budget has them."));
    else if (!canInflate) maps.append(el("p", { class: "card" }, NO_INFLATE));
    else outputMaps(output, WORDS, (at) => tellCursor(cursor, output, at)).then((made) => { shown = made; maps.append(made.box); made.start(); if (state.core) filterBy(state.core); });
    const filterBy = (text) => shown && shown.filter(text ? text.split(",").map(Number) : null);
    const charts = el("div", { class: "charts" });
    if (output.array) charts.append(coresBox(output, (text) => { go({ core: text }); filterBy(text); }));
    if (output.values) charts.append(bars("Values", output.values.actual, [fig(output.values.low), ...Array(output.values.actual.length - 2).fill(""), fig(output.values.high)], `${WORDS[0]} as lines over ${WORDS[1]} as bars, from ${output.values.low} to ${output.values.high}`, output.values.expected));
    charts.append(bars("ULP", output.ulps[1], output.ulps[0], output.ulps[0].map((b, i) => `${b}: ${output.ulps[1][i]}`).filter((_, i) => output.ulps[1][i]).join(", ")));
    if (output.bits && output.failing) charts.append(bars("Wrong bits, of failing elements", output.bits, output.bits.map((_, i) => String(output.bits.length - 1 - i)), output.bits.map((n, i) => `bit ${output.bits.length - 1 - i}: ${n}`).join(", ")));
    box.append(charts);
    if (output.first.length) box.append(firstWrong(output));
    return box;
  }

  function tellCursor(cursor, output, at) {
    const place = Object.entries(at.place).map(([role, n]) => `${role} ${n}`).join(", ");
    cursor.replaceChildren(
      el("div", {}, el("strong", {}, at.index), at.block > 1 ? el("span", { class: "soft" }, ` worst of ${at.block}`) : "", el("span", { class: "soft" }, place ? `  ${place}` : "")),
      el("div", { class: "mono" }, `${WORDS[0].padEnd(8)} ${fig(at.actual).padStart(9)}  `, bitsText(at.actualBits, at.expectedBits, output.dtype)),
      el("div", { class: "mono" }, `${WORDS[1].padEnd(8)} ${fig(at.expected).padStart(9)}  `, bitsText(at.expectedBits, at.actualBits, output.dtype)),
      el("div", {}, `error ${fig(at.actual - at.expected)}, ${fig(at.distance)}× the limit, ${at.ulp.toLocaleString("en")} ULP`));
    cursor.title = `${at.actual} against ${at.expected}`;
  }

  /** The AIE array: columns across, core rows down; a click shows one core alone. */
  function coresBox(output, filter) {
    const { columns, rows: high, counts, each } = output.array, total = Math.max(1, counts.reduce((a, b) => a + b, 0));
    const cellAt = (r, c) => {
      const n = counts[r * columns + c], share = n / total, said = n ? `${Math.round(100 * share)}%` : "0", colour = magnitude(Math.sqrt(n / each)), key = `${c},${r}`;
      const button = el("button", { type: "button", "aria-pressed": String(state.core === key), title: `column ${c}, row ${r}: ${n.toLocaleString("en")} of ${each.toLocaleString("en")} fail, ${(100 * share).toFixed(1)} % of all`, "aria-label": `${said}: column ${c}, row ${r}, ${n} fail`,
        on: { click: (event) => { const on = state.core !== key; for (const b of box.querySelectorAll("button")) b.setAttribute("aria-pressed", "false"); event.currentTarget.setAttribute("aria-pressed", String(on)); filter(on ? key : ""); } } }, said);
      button.style.background = css(colour);
      button.style.color = colour[0] * 0.3 + colour[1] * 0.59 + colour[2] * 0.11 > 125 ? "#000" : "#fff";
      return el("td", {}, button);
    };
    const lines = [];
    for (let r = 0; r < high; r++) lines.push(el("tr", {}, el("th", { scope: "row" }, `row ${r}`), Array.from({ length: columns }, (_, c) => cellAt(r, c))));
    const box = el("div", { class: "cores-box" }, el("h4", {}, "AIE array, share of the errors"), scrolled("AIE array", el("table", { class: "cores" }, el("thead", {}, el("tr", {}, el("td"), Array.from({ length: columns }, (_, c) => el("th", { scope: "col" }, `col ${c}`)))), el("tbody", {}, lines))));
    return box;
  }

  function firstWrong(output) {
    const head = ["index", WORDS[0], "bits", WORDS[1], "bits", "ULP", "of limit"];
    const copy = el("button", { type: "button", on: { click: async () => { try { await navigator.clipboard.writeText([head, ...output.first].map((l) => l.join("\t")).join("\n")); copy.textContent = "Copied"; } catch { copy.textContent = "Select and copy the table"; } } } }, "Copy");
    return el("details", { open: true }, el("summary", {}, `First ${output.first.length} of ${count(output.failing, "failing element")}`), copy, scrolled("Failing elements", table(head, output.first, "", [1, 2, 3, 4, 5, 6])));
  }

  function readersBox(panel) {
    const readers = panel.readers || [];
    if (!readers.length) return "";
    const words = ({ handed, left }) => {
      if (left === undefined) return "";
      if (left === null) return "can't be followed";
      const [a, b] = [number(handed), number(left)], change = b / a;
      return b === 0 ? "vanished" : `${change > 1.05 ? "grew" : change < 0.95 ? "shrank" : "kept"}: rel L2 ${fig(a)} → ${fig(b)}`;
    };
    return el("div", { class: "card" }, el("h3", {}, "Read by"), readers.slice(0, 12).map((r) => el("div", {}, stepLink(r.address), " ", name(rows.at.has(r.address) ? entry(rows.at.get(r.address))[0] : ""), " ", el("span", { class: "soft" }, words(r)))), readers.length > 12 ? el("div", { class: "soft" }, `and ${readers.length - 12} more`) : "");
  }

  return { render };
})();
