"use strict";
// The page reads without this script. With it: tables sort and filter, pictures answer to pointer and keys,
// two configs can be put beside each other. Text from runs is only ever set as text.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const json = (id) => { const block = document.getElementById(id); return block ? JSON.parse(block.textContent) : null; };
  const make = (tag, text, given = {}) => Object.assign(document.createElement(tag), { textContent: text }, given);
  const tips = json("tips");

  // Tooltips

  const tip = one("#tip");
  let shownAt = 0;
  function show(text, x, y) {
    tip.textContent = text;
    tip.hidden = false;
    shownAt = scrollY;
    const box = tip.getBoundingClientRect();
    const left = x + 16 + box.width > innerWidth ? x - 16 - box.width : x + 16;
    const top = y + 16 + box.height > innerHeight ? y - 16 - box.height : y + 16;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  }
  function hide() {
    tip.hidden = true;
    all(".hot").forEach((mark) => mark.classList.remove("hot"));
    all("svg .cursor").forEach((cursor) => cursor.setAttribute("visibility", "hidden"));
  }
  function heat(row) {
    all(".hot").forEach((mark) => mark.classList.remove("hot"));
    all(`.mark[data-row="${row}"], #configurations tr[data-row="${row}"]`).forEach((m) => m.classList.add("hot"));
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", (event) => {  // what was scrolled before the tooltip came is told late
    if (!tip.hidden && (event.target !== document || scrollY !== shownAt)) hide();
  }, true);

  for (const cell of all("[data-tip]")) {
    const near = () => { const box = cell.getBoundingClientRect(); show(cell.dataset.tip, box.right - 16, box.bottom - 16); };
    cell.addEventListener("pointerenter", near);
    cell.addEventListener("focus", near);
    cell.addEventListener("pointerleave", hide);
    cell.addEventListener("blur", hide);
  }
  for (const line of all("#configurations tbody tr")) {
    line.addEventListener("pointerenter", () => heat(line.dataset.row));
    line.addEventListener("pointerleave", hide);
  }

  // Tables

  function sortBy(table, column) {
    const heads = all("thead th", table);
    const down = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : down ? "descending" : "ascending"));
    const number = heads[column].classList.contains("number");
    const value = (line) => { const raw = line.cells[column].dataset.v; return raw === undefined ? null : number ? Number(raw) : raw; };
    const order = (a, b) => number ? a - b : a.localeCompare(b, undefined, { numeric: true });
    const lines = all("tbody tr", table).map((line) => [value(line), line]);
    lines.sort(([a], [b]) => a === null ? (b === null ? 0 : 1) : b === null ? -1 : down ? order(b, a) : order(a, b));
    one("tbody", table).append(...lines.map(([, line]) => line));
  }

  function filter(table) {
    const words = one(`[data-filter="${table.id}"]`).value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = one(`[data-state="${table.id}"]`).value;
    const lines = all("tbody tr", table);
    for (const line of lines) {
      const text = line.textContent.toLowerCase();
      line.hidden = !words.every((word) => text.includes(word)) || (state !== "" && !line.dataset.states.split(" ").includes(state));
    }
    const left = lines.filter((line) => !line.hidden);
    one(`[data-count="${table.id}"]`).textContent = `${left.length} of ${lines.length}${left.length ? "" : ": nothing matches"}`;
    if (table.id !== "configurations") return;
    const rows = new Set(left.map((line) => line.dataset.row));
    all("svg [data-row]").forEach((mark) => mark.classList.toggle("out", !rows.has(mark.dataset.row)));
    all("svg .family").forEach((curve) => one(".line", curve)?.classList.toggle("out", !one(".mark:not(.out)", curve)));
  }

  for (const table of all("table.grid")) {
    all("thead button", table).forEach((button, i) => button.addEventListener("click", () => sortBy(table, i)));
    one(`[data-filter="${table.id}"]`).addEventListener("input", () => filter(table));
    one(`[data-state="${table.id}"]`).addEventListener("change", () => filter(table));
  }

  // Pictures: each gives its items a way to be shown; pointer and arrow keys choose one.

  function place(svg, x, y) {
    const point = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
    return [point.x, point.y];
  }
  function inside(svg, event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  }

  function marks(svg) {
    const items = all(".mark", svg);
    const shown = (mark) => {
      heat(mark.dataset.row);
      const box = one(".shape", mark).getBoundingClientRect();
      show(tips.rows[mark.dataset.row], box.right - 8, box.bottom - 8);
    };
    items.forEach((mark) => { mark.addEventListener("pointerenter", () => shown(mark)); mark.addEventListener("pointerleave", hide); });
    let at = -1;
    return (dx, dy) => {
      const open = items.filter((mark) => !mark.classList.contains("out"));
      if (!open.length) return;
      at = (at + (dx || dy) + open.length + (at < 0 && (dx || dy) < 0 ? 1 : 0)) % open.length;
      shown(open[at]);
    };
  }

  function lines(svg) {
    const cursor = one("circle.cursor", svg);
    const runs = all(".run", svg).map((run) => ({
      run,
      points: one("polyline", run).getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number)),
      values: run.dataset.v.split(" ").map((pair) => pair.split(":")),
    }));
    let line = 0, at = -1;
    const shown = () => {
      const { run, points, values } = runs[line];
      hide();
      run.classList.add("hot");
      run.parentNode.append(run);
      cursor.setAttribute("visibility", "visible");
      cursor.setAttribute("cx", points[at][0]);
      cursor.setAttribute("cy", points[at][1]);
      const [steps, value] = values[at];
      show(`${run.dataset.said}\n${steps.includes("–") ? "steps" : "step"} ${steps}: ${svg.dataset.y} ${value}`, ...place(svg, ...points[at]));
    };
    let waiting = null;
    svg.addEventListener("pointermove", (event) => {
      if (waiting === null) requestAnimationFrame(() => {
        const { x, y } = inside(svg, waiting);
        waiting = null;
        let best = 24 * 24;
        let found = false;
        runs.forEach(({ run, points }, i) => {
          if (run.classList.contains("out")) return;
          points.forEach(([px, py], j) => {
            const distance = (px - x) ** 2 + (py - y) ** 2;
            if (distance < best) { best = distance; line = i; at = j; found = true; }
          });
        });
        if (found) shown(); else hide();
      });
      waiting = event;
    });
    svg.addEventListener("pointerleave", hide);
    return (dx, dy) => {
      if (!runs.length) return;
      const size = runs[line].points.length;
      if (at < 0) at = 0;
      else if (dx) at = Math.min(size - 1, Math.max(0, at + dx));
      else {
        const part = at / Math.max(1, size - 1);
        let tried = runs.length;
        do line = (line + dy + runs.length) % runs.length; while (--tried && runs[line].run.classList.contains("out"));
        at = Math.round(part * (runs[line].points.length - 1));
      }
      shown();
    };
  }

  function cells(svg) {
    const table = json("heat");
    const [left, top, width, height] = svg.dataset.at.split(" ").map(Number);
    const cursor = one("rect.cursor", svg);
    let row = 0, column = -1;
    const shown = (x, y) => {
      const value = table.values[row][column];
      cursor.setAttribute("visibility", "visible");
      cursor.setAttribute("x", left + column * width);
      cursor.setAttribute("y", top + row * height);
      const said = value === null ? "not masked, or not counted" : `${(100 * value).toFixed(2)} % sparse`;
      show(`${table.rows[row]}\n${table.columns[column]}\n${said}`, x, y);
    };
    svg.addEventListener("pointermove", (event) => {
      const { x, y } = inside(svg, event);
      const r = Math.floor((y - top) / height), c = Math.floor((x - left) / width);
      if (r < 0 || c < 0 || r >= table.rows.length || c >= table.columns.length) { hide(); return; }
      row = r; column = c;
      shown(event.clientX, event.clientY);
    });
    svg.addEventListener("pointerleave", hide);
    return (dx, dy) => {
      if (column < 0) column = 0;
      else { column = Math.min(table.columns.length - 1, Math.max(0, column + dx)); row = Math.min(table.rows.length - 1, Math.max(0, row + dy)); }
      shown(...place(svg, left + (column + 1) * width, top + (row + 1) * height));
    };
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  for (const svg of all("svg[data-kind]")) {
    const step = { marks, lines, heat: cells }[svg.dataset.kind](svg);
    svg.addEventListener("keydown", (event) => {
      if (!(event.key in ARROWS)) return;
      event.preventDefault();
      step(...ARROWS[event.key]);
    });
    svg.addEventListener("blur", hide);
  }

  // The Pareto front's axes

  const fronts = all("#fronts figure");
  if (fronts.length > 1) {
    const choose = (name, label, key, said) => {
      const select = make("select", "", { id: name });
      const seen = new Map(fronts.map((front) => [front.dataset[key], front.dataset[said]]));
      seen.forEach((title, value) => select.append(make("option", title, { value })));
      const wrapped = make("label", `${label} `);
      wrapped.append(select);
      one("#front-choice").append(wrapped);
      return select;
    };
    const cost = choose("front-x", "Across", "cost", "costTitle");
    const metric = choose("front-y", "Upwards", "metric", "metric");
    const missing = make("span", "", { role: "status" });
    missing.setAttribute("role", "status");
    one("#front-choice").append(missing);
    const pick = () => {
      fronts.forEach((front) => { front.hidden = front.dataset.cost !== cost.value || front.dataset.metric !== metric.value; });
      missing.textContent = fronts.every((front) => front.hidden) ? "no two rows have both" : "";
    };
    cost.addEventListener("change", pick);
    metric.addEventListener("change", pick);
    pick();
  }

  // Config diff

  const configs = json("configs");
  if (configs) {
    const [a, b] = [one("#diff-a"), one("#diff-b")];
    const cell = (index) => index < 0 ? make("td", "not there", { className: "absent" }) : make("td", configs.values[index]);
    const update = () => {
      const [left, right] = [configs.runs[a.value], configs.runs[b.value]];
      const lines = configs.keys.flatMap((key, i) => {
        if (left[i] === right[i]) return [];
        const line = document.createElement("tr");
        line.append(make("td", key), cell(left[i]), cell(right[i]));
        return [line];
      });
      one("#diff-rows").replaceChildren(...lines);
      one("#diff-count").textContent = lines.length ? `${lines.length} ${lines.length > 1 ? "keys differ" : "key differs"}` : "nothing differs";
    };
    a.addEventListener("change", update);
    b.addEventListener("change", update);
    one("#diff-swap").addEventListener("click", () => { [a.value, b.value] = [b.value, a.value]; update(); });
    update();
  }

  // On paper everything is open

  let closed = [];
  addEventListener("beforeprint", () => { hide(); closed = all("details:not([open])"); closed.forEach((d) => { d.open = true; }); });
  addEventListener("afterprint", () => closed.forEach((d) => { d.open = false; }));
})();
