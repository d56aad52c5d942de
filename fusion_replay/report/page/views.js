// Views of the whole run: dataflow, buffers over time, bisection and attribution, differences, provenance and losses.
const views = (() => {
  function flow(view) {
    const panel = data.panels[state.step], graph = panel && panel.flow;
    if (!graph) { view.replaceChildren(el("p", { class: "card" }, `The dataflow of ${state.step || "no step"} is not in the page: it has that of the steps in full.`)); return; }
    const levels = new Map();
    for (const [where, level] of graph.nodes) levels.set(level, [...(levels.get(level) || []), where]);
    const order = [...levels.keys()].sort((a, b) => a - b), W = 176, H = 40, GAP = 76, wide = order.length * (W + GAP) - GAP + 20;
    const tall = Math.max(...[...levels.values()].map((v) => v.length)) * (H + 22) + 20;
    const spot = new Map();
    order.forEach((level, i) => levels.get(level).forEach((where, k) => spot.set(where, [10 + i * (W + GAP), (tall - levels.get(level).length * (H + 22)) / 2 + k * (H + 22)])));
    const picture = svg("svg", { class: "graph", width: wide, height: tall, viewBox: `0 0 ${wide} ${tall}`, role: "group", "aria-label": `Dataflow of ${state.step}: ${graph.edges.map((e) => `${e[0]} to ${e[1]} by ${e[2]}`).join(", ")}` });
    const thick = (n) => Math.max(1, Math.min(8, Math.log10(Math.max(n, 10)) - 0.5));
    const wrong = (where) => rows.at.has(where) && isBad(rows.at.get(where));
    for (const [from, to, buffer, size] of graph.edges) {
      const [x1, y1] = spot.get(from), [x2, y2] = spot.get(to), back = x2 <= x1;
      const [sx, sy, tx, ty] = [x1 + W, y1 + H / 2, x2, y2 + H / 2];
      const path = svg("path", { d: back ? `M${x1 + W / 2} ${y1 + H} C${x1 + W / 2} ${y1 + H + 30} ${x2 + W / 2} ${y2 - 30} ${x2 + W / 2} ${y2}` : `M${sx} ${sy} C${sx + GAP / 2} ${sy} ${tx - GAP / 2} ${ty} ${tx} ${ty}`, "stroke-width": thick(size), class: wrong(from) ? "bad" : "" });
      path.append(svg("title", {}, `${buffer}, ${bytes(size)}, ${from} to ${to}`));
      picture.append(path);
    }
    const seen = new Set();
    for (const [from, to, buffer] of graph.edges) {
      const key = `${from} ${buffer}`, [x, y] = spot.get(from);
      if (seen.has(key)) continue;
      seen.add(key);
      const k = [...seen].filter((s) => s.startsWith(`${from} `)).length;
      picture.append(svg("text", { x: x + W + 4, y: y + H / 2 - 6 + 14 * (k - 1) - (k > 1 ? -12 : 0), class: "soft" }, clip(buffer, 12)));
    }
    for (const [where, [x, y]] of spot) {
      const row = rows.at.get(where), group = svg("a", { href: `#step=${where}`, class: `${where === state.step ? "here" : ""} ${wrong(where) ? "bad" : ""}` });
      group.append(svg("rect", { x, y, width: W, height: H, rx: 4 }), svg("text", { x: x + 8, y: y + 16 }, row === undefined ? where : `${where} ${clip(entry(row)[0], 20)}`), svg("text", { x: x + 8, y: y + 31, class: "soft" }, row === undefined ? "" : clip(`${STATES[rows.states[row]][0]}${Number.isNaN(rows.figures.distance[row]) ? "" : `, ${fig(rows.figures.distance[row])}× its limit`}`, 28)), svg("title", {}, row === undefined ? where : label(row)));
      group.addEventListener("click", (event) => { event.preventDefault(); go({ step: where }); });
      picture.append(group);
    }
    view.replaceChildren(el("h2", {}, "Dataflow of ", name(state.step)), el("p", { class: "soft" }, `Two levels up and down; edges are buffers, thicker with more bytes, orange where the step that wrote them is wrong.${graph.hidden ? ` ${graph.hidden} more steps are not drawn; click a step to go on from there.` : " A click goes on from there."}`), scrolled("Dataflow", picture));
  }

  const clip = (text, n) => (text.length > n ? `${text.slice(0, n - 1)}…` : text);

  /** A memory map: buffers down, entries of the runlist across; written bytes are filled until they are read last. */
  function buffers(view) {
    const row = rows.at.get(state.step), number = row === undefined ? 0 : rows.sequence[row], sequence = data.sequences[number];
    if (!sequence) { view.replaceChildren(el("p", { class: "card" }, "The recording has no runlist.")); return; }
    const used = sequence.buffers.map((b, i) => [i, b]).filter(([i, b]) => b[3]).slice(0, 200);
    const HIGH = 26, LEFT = 170, spans = [];
    const line = new Map(used.map(([i], k) => [i, k]));
    sequence.entries.forEach(([op, , uses], x) => uses.forEach(([buffer, start, end, reads, writes]) => {
      if (!line.has(buffer)) return;
      if (reads) for (const span of spans) if (span.buffer === buffer && span.alive && span.start < end && span.end > start) span.last = x;
      if (writes) {
        for (const span of spans) if (span.buffer === buffer && span.alive && span.start < end && span.end > start) span.alive = false;
        spans.push({ buffer, start, end, x, last: x, alive: true, op });
      }
    }));
    const canvas = el("canvas", { class: "wide", role: "img", "aria-label": `Who wrote which bytes of ${used.length} buffers when, over ${sequence.entries.length} entries of ${sequence.name}` });
    const n = sequence.entries.length, call = row === undefined ? 0 : rows.invocation[row];
    const rect = (span, width) => {
      const [, size] = sequence.buffers[span.buffer], w = (width - LEFT) / n, k = line.get(span.buffer);
      return [LEFT + span.x * w, k * HIGH + 2 + span.start / size * (HIGH - 5), Math.max(2, (span.last - span.x + 1) * w - 0.5), Math.max(1.5, (span.end - span.start) / size * (HIGH - 5))];
    };
    const draw = () => {
      const width = canvas.clientWidth, context = sized(canvas, width, Math.max(40, used.length * HIGH));
      context.font = "11.5px system-ui, sans-serif";
      context.textBaseline = "middle";
      used.forEach(([, [text, size]], k) => {
        context.fillStyle = variable("--line"); context.fillRect(0, k * HIGH, width, 1);
        context.fillStyle = variable("--text"); context.fillText(clip(text, 15), 6, k * HIGH + HIGH / 2);
        context.fillStyle = variable("--soft"); context.textAlign = "right"; context.fillText(bytes(size), LEFT - 8, k * HIGH + HIGH / 2); context.textAlign = "left";
      });
      for (const span of spans) {
        const at = rows.at.get(`${call}:${span.x}`), bad = at !== undefined && isBad(at);
        context.fillStyle = bad ? variable("--bar-bad") : variable("--bar");
        context.fillRect(...rect(span, width));
      }
      if (row !== undefined) { const w = (width - LEFT) / n; context.strokeStyle = variable("--text"); context.lineWidth = 1; context.strokeRect(LEFT + rows.step[row] * w, 0, Math.max(w, 2), used.length * HIGH); }
    };
    const find = (event) => {
      const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      return spans.findLast((span) => { const [l, t, w, h] = rect(span, box.width); return x >= l && x <= l + w && y >= t - 2 && y <= t + h + 2; });
    };
    canvas.addEventListener("pointermove", (event) => { const s = find(event); showTip(s ? `${sequence.buffers[s.buffer][0]}[${s.start}:${s.end}] written by ${call}:${s.x} ${s.op}, ${s.last > s.x ? `read last by ${call}:${s.last}` : "not read again in this invocation"}` : "", event.clientX, event.clientY); });
    canvas.addEventListener("pointerleave", () => showTip(""));
    canvas.addEventListener("click", (event) => { const s = find(event); if (s && rows.at.has(`${call}:${s.x}`)) go({ step: `${call}:${s.x}` }); });
    later(canvas, draw);
    view.replaceChildren(el("h2", {}, "Buffers over time"), el("p", { class: "soft" }, `Invocation ${call} of `, name(sequence.name), ": each write as a bar from the step that wrote to the one that reads it last; the height is its bytes of the buffer. Orange: written by a step that is wrong."), used.length ? canvas : el("p", { class: "card" }, "No step writes a buffer."));
  }

  function run(view) {
    const told = data.run, none = (what) => el("p", { class: "card" }, what);
    view.replaceChildren(el("div", { class: "two-columns" },
      el("section", {}, el("h2", {}, "What the recording holds"), el("div", { class: "prose" }, el("pre", {}, told.holds.join("\n"))),
        el("h2", {}, "Lost or left out"), told.losses.length ? table(["kind", "what", "times"], told.losses.map(([k, d, n]) => [name(k), name(d), n.toLocaleString("en")]), "", [2]) : none("Nothing was lost."),
        el("h2", {}, "Between steps"), data.findings.length ? data.findings.map(([weight, sentence, at]) => el("p", {}, el("span", { class: `badge ${weight === "certain" ? "bad" : weight === "suspect" ? "warn" : "plain"}` }, weight), " ", name(sentence), " ", at.slice(0, 5).map((a) => [stepLink(a), " "]))) : none("Nothing was found that no single step shows.")),
      el("section", {}, el("h2", {}, "Provenance"), told.provenance.length ? table(["", ""], told.provenance.map(([k, v]) => [name(k), name(v)])) : none("The recording says nothing of where it comes from."))));
  }

  function bisection(view) {
    const found = data.bisection;
    view.replaceChildren(lines("Error of the final output by recorded steps", [{ name: found.metric, points: found.points.map(([k, e]) => [k, number(e)]), colour: "--bar-bad", steps: true }], { words: "steps taken from the recording; the rest is computed by reference" }),
      ...found.lines.map((text) => el("p", {}, name(text))), el("h3", {}, "Runs"), table(["recorded steps", found.metric], found.points.map(([k, e]) => [k, fig(number(e))]), "", [0, 1]));
  }

  function attribution(view) {
    const found = data.attribution, series = (column, title, colour, dots) => ({ name: title, colour, dots, points: found.steps.map((s, i) => [i, s[column] === null ? NaN : number(s[column])]).filter(([, y]) => y > 0) });
    const known = found.steps.filter((s) => s[4] !== null).sort((a, b) => number(b[4]) - number(a[4])), most = Math.max(1e-9, ...known.map((s) => Math.abs(number(s[4]))));
    const bar = (share) => { const b = el("span", { class: "bar" }); b.style.cssText = ""; b.style.display = "block"; b.style.height = "9px"; b.style.background = "var(--bar)"; b.style.width = `${Math.round(Math.abs(share) / most * 160)}px`; return b; };
    view.replaceChildren(el("p", {}, el("strong", {}, name(found.sentence))), ...found.besides.map((text) => el("p", {}, name(text))),
      lines("Error along the chain", [series(3, "cumulative", "--bar-bad"), series(1, "by itself", "--bar", true)], { log: true, band: number(found.floor), words: "step of the chain; relative L2", onPick: (i) => go({ step: found.steps[i][0], tab: "step" }) }),
      el("h3", {}, "Shares of the final error"), table(["step", "share", "", "by itself", "inherited", "leaves"], known.map((s) => [stepLink(s[0]), `${(100 * number(s[4])).toFixed(1).replace("-0.0", "0.0")} %`, bar(number(s[4])), s[1] === null ? "" : fig(number(s[1])), fig(number(s[2])), fig(number(s[3]))]), "", [1, 3, 4, 5]));
  }

  function changes(view) {
    const told = data.difference, none = (what) => el("p", { class: "card" }, what);
    view.replaceChildren(el("div", { class: "two-columns" },
      el("section", {}, el("h2", {}, "Steps that differ"), told.steps.length ? table(["A", "B", "kind", "operator", "why"], told.steps.map(([a, b, kind, op, why]) => [name(a), stepLink(b), kind, name(op), name(why)])) : none("No step differs."),
        told.path.length ? [el("h2", {}, "Way of the first difference"), el("ol", {}, told.path.map((text) => el("li", {}, name(text))))] : "",
        el("h2", {}, "From outside"), told.outside.length ? told.outside.map((text) => el("p", {}, name(text))) : none("No input from outside differs."),
        told.notes.length ? [el("h2", {}, "Not compared"), told.notes.map((text) => el("p", {}, name(text)))] : ""),
      el("section", {}, el("h2", {}, "Environment"), told.environment.length ? table(["", "A", "B"], told.environment.map((row) => row.map(name))) : none("Nothing differs in what both were made with."))));
  }

  function goldens(view) {
    view.replaceChildren(...data.goldens.map((g) => el("section", { class: "card" }, el("h2", {}, name(g.name), " ", g.problem ? el("span", { class: "badge bad" }, g.problem) : ""), g.lines.map((text) => el("p", {}, name(text))))));
  }

  const ALL = [["step", "Step", stepView.render, (d) => d.runs.length], ["list", "Steps", list.render, (d) => d.runs.length], ["flow", "Dataflow", flow, (d) => d.runs.length], ["buffers", "Buffers", buffers, (d) => d.sequences.length],
    ["changes", "Differences", changes, (d) => d.difference], ["bisect", "Bisection", bisection, (d) => d.bisection], ["shares", "Attribution", attribution, (d) => d.attribution], ["goldens", "Goldens", goldens, (d) => d.goldens], ["run", "Recording", run, (d) => d.run]];
  return ALL.filter(([, , , has]) => has(data));
})();
