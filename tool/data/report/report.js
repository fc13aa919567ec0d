"use strict";
// Draws a report from the data that the page carries. docs/report.md describes the data; nothing is fetched.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const page = 4096; // the unit of all positions
  const letters = ["g", "m", "b", "c", "p"];
  const shadeColour = (shade) => `var(--s${shade})`;
  const changes = ["none", "split", "healed", "permission", "mapped"];
  const changeNames = ["unchanged", "split", "healed", "changed permission", "newly mapped"];
  const rank = ["writable and executable", "not accessible", "shared", "key", "not cached", "executable", "read-only", "writable", "other"];

  // ---- Small things

  const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => escapes[c]);
  const grouped = (number) => Math.round(number).toString().replace(/\B(?=(\d{3})+$)/g, ",");
  function human(bytes) {
    const units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = 0;
    while (unit + 1 < units.length && bytes >= 1024) { bytes /= 1024; unit++; }
    return `${unit === 0 ? bytes : Number(bytes.toFixed(2))} ${units[unit]}`;
  }
  /** An element: make("p", {class: "note"}, "text", child...). */
  function make(name, attributes = {}, ...children) {
    const svg = ["svg", "path", "rect", "line", "text", "g", "circle"].includes(name);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }
  const main = document.getElementById("content");

  // ---- The map: runs of memory, in pages from the start

  class MemoryMap {
    constructor(map) {
      Object.assign(this, map);
      this.base = BigInt(map.start);
      const start = [], span = [], bytes = [], kind = [];
      // Each run is: pages since the start of the run before, pages, kind * 2 (+ 1 and the pages really mapped, when it
      // is a sum of smaller runs that lie somewhere in it).
      for (let at = 0, from = 0, list = map.runs; at < list.length;) {
        from += list[at++];
        const pages = list[at++], coded = list[at++];
        start.push(from); span.push(pages); kind.push(coded >> 1);
        bytes.push(coded & 1 ? list[at++] : pages);
      }
      Object.assign(this, { runStart: start, runSpan: span, runPages: bytes, runKind: kind, count: start.length });
      // Memory without its holes: where positions of the strip and of paging count.
      this.extents = [];
      this.total = 0;
      for (let at = 0; at < this.count; at++) {
        const last = this.extents[this.extents.length - 1], end = start[at] + span[at];
        if (last && start[at] <= last.end) {
          if (end > last.end) { this.total += end - last.end; last.end = end; }
        } else {
          this.extents.push({ start: start[at], end, before: this.total });
          this.total += span[at];
        }
      }
      this.mapped = bytes.reduce((sum, pages) => sum + pages, 0);
      const byPermission = new Map();
      for (let at = 0; at < this.count; at++) {
        const name = this.kinds[kind[at]].permission;
        byPermission.set(name, (byPermission.get(name) || 0) + bytes[at]);
      }
      this.permissions = [...byPermission].sort((a, b) => b[1] - a[1]);
      this.usual = this.permissions.length ? this.permissions[0][0] : "";
      this.changed = this.kinds.some((each) => each.change > 0);
    }
    address(at) { return "0x" + BigInt.asUintN(64, this.base + BigInt(at) * BigInt(page)).toString(16).padStart(16, "0"); }
    /** The first run that ends behind `at`. */
    runBehind(at) {
      let low = 0, high = this.count;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.runStart[middle] + this.runSpan[middle] > at) high = middle; else low = middle + 1;
      }
      return low;
    }
    extentAt(test) {
      let low = 0, high = this.extents.length - 1;
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (test(this.extents[middle])) low = middle; else high = middle - 1;
      }
      return this.extents[low];
    }
    /** Mapped pages in front of `at`, and the way back. */
    position(at) {
      const extent = this.extentAt((each) => each.start <= at);
      return extent.before + Math.min(Math.max(at - extent.start, 0), extent.end - extent.start);
    }
    place(position) {
      const extent = this.extentAt((each) => each.before <= position);
      return Math.min(extent.start + position - extent.before, extent.end - 1);
    }
    /** What lies in [from, to): pages by kind, and how many of them are known only roughly. */
    contents(from, to) {
      const kinds = new Map();
      let rough = 0, mapped = 0;
      for (let run = this.runBehind(from); run < this.count && this.runStart[run] < to; run++) {
        const start = this.runStart[run], span = this.runSpan[run], pages = this.runPages[run];
        const part = Math.min(to, start + span) - Math.max(from, start);
        if (part <= 0) continue;
        const share = pages === span ? part : Math.max(pages * part / span, 1e-6);
        if (pages !== span && part !== span) rough += share;
        mapped += share;
        kinds.set(this.runKind[run], (kinds.get(this.runKind[run]) || 0) + share);
      }
      return { from, to, kinds, mapped, rough };
    }
    /** Up to `most` rows of `row` pages from `first` on that hold memory. */
    rows(first, row, most) {
      const rows = [];
      let at = Math.floor(first / row) * row;
      for (let run = this.runBehind(at); run < this.count && rows.length < most;) {
        at = Math.max(at, Math.floor(this.runStart[run] / row) * row);
        const end = this.runStart[run] + this.runSpan[run];
        for (; at < end && rows.length < most; at += row) rows.push(at);
        run = this.runBehind(at);
      }
      return rows;
    }
  }

  // ---- The picture of the map

  function mapSection(maps) {
    const state = { map: null, chunk: 1, first: 0, cols: 32, rows: 16, mode: "size", on: null, cells: [], fit: 1 };
    const section = make("section", { id: "map", "aria-labelledby": "map-title" });
    const note = make("p", { class: "note" });
    const pick = make("select", { id: "pick-map", onchange: () => choose(Number(pick.value)) },
      ...maps.map((map, index) => make("option", { value: index }, map.title)));
    const button = (label, text, action, icon) => make("button", { type: "button", "aria-label": label, title: label, class: icon ? "icon" : null, onclick: action }, text);
    const out = button("Zoom out", "−", () => zoom(4), true), into = button("Zoom in", "+", () => zoom(1 / 4), true);
    const whole = button("Show the whole map", "Whole map", () => { fit(); draw(); });
    const back = button("Earlier memory", "▲", () => pan(-1), true), forth = button("Later memory", "▼", () => pan(1), true);
    const colourBy = make("button", { type: "button", "aria-pressed": "false", onclick: () => {
      state.mode = state.mode === "size" ? "change" : "size";
      colourBy.setAttribute("aria-pressed", String(state.mode === "change"));
      draw();
    } }, "Colour by what changed");
    const letterButton = make("button", { type: "button", "aria-pressed": "false", onclick: () => {
      const on = grid.classList.toggle("letters");
      letterButton.setAttribute("aria-pressed", String(on));
    } }, "Letters");
    const legend = make("ul", { class: "legend", "aria-label": "What the colours and outlines mean" });
    const strip = make("div", { class: "strip", role: "slider", tabindex: "0", "aria-label": "Part of the map that is shown", "aria-valuemin": 0, "aria-valuemax": 1000 },
      make("canvas", { "aria-hidden": "true" }), make("div", { class: "window" }));
    const view = make("p", { class: "view", "aria-live": "polite" });
    const grid = make("div", { class: "map", role: "grid", "aria-label": "Map of memory", "aria-describedby": "map-keys" });
    const detail = make("div", { class: "detail", id: "map-detail" });
    section.append(
      make("h2", { id: "map-title" }, "Map of memory"), note,
      make("div", { class: "bar" }, maps.length > 1 ? make("label", {}, "Map", pick) : null, out, into, whole, back, forth,
        make("span", { class: "grow" }), colourBy, letterButton),
      legend, strip, view, grid, detail,
      make("p", { class: "note keys", id: "map-keys", style: "margin-top:8px" }, "Keyboard, with a cell focused: arrows move, ", make("kbd", {}, "+"), " and ", make("kbd", {}, "−"),
        " zoom, ", make("kbd", {}, "Page up"), " and ", make("kbd", {}, "Page down"), " go on, ", make("kbd", {}, "0"), " shows the whole map. A double click or Enter zooms in; Ctrl and the wheel zoom too."));

    function measure() {
      const width = grid.clientWidth || section.clientWidth;
      const label = width >= 620 ? 132 : 0;
      state.cols = width - label >= 860 ? 64 : width >= 480 ? 32 : 16;
      state.rows = state.cols === 16 ? 14 : 16;
      grid.style.setProperty("--label", label + "px");
      grid.style.setProperty("--cols", state.cols);
      state.label = label;
    }
    function choose(index) {
      state.map = maps[index];
      note.textContent = state.map.note;
      colourBy.hidden = !state.map.changed;
      state.mode = "size";
      colourBy.setAttribute("aria-pressed", "false");
      measure();
      fit();
      draw();
    }
    function fit() {
      state.chunk = 1;
      while (state.map.rows(0, state.chunk * state.cols, state.rows + 1).length > state.rows) state.chunk *= 2;
      state.fit = state.chunk;
      state.first = 0;
      state.on = null;
    }
    /** Keeps the cell that is looked at near the middle. */
    function zoom(factor, at) {
      if (at === undefined) at = state.on !== null ? state.on : state.map.place(state.map.position(state.first));
      const chunk = Math.min(Math.max(state.chunk * factor, 1), state.fit);
      if (chunk === state.chunk) return;
      state.chunk = chunk;
      show(at);
    }
    function show(at) {
      const row = state.chunk * state.cols;
      const before = Math.max(state.map.position(at) - Math.floor(state.rows / 2) * row, 0);
      state.first = state.chunk >= state.fit ? 0 : Math.floor(state.map.place(before) / row) * row;
      // Where memory has many holes, rows in front of it are fewer than its pages say.
      const lines = state.map.rows(state.first, row, state.rows);
      if (!lines.includes(Math.floor(at / row) * row)) state.first = Math.floor(at / row) * row;
      state.on = at;
      draw(true);
    }
    function pan(screens) {
      const row = state.chunk * state.cols, step = Math.max(state.rows - 1, 1);
      if (screens > 0) {
        const lines = state.map.rows(state.first, row, step + 1);
        if (lines.length <= step) return;
        state.first = lines[step];
      } else {
        const before = Math.max(state.map.position(state.first) - step * row, 0);
        let first = Math.floor(state.map.place(before) / row) * row;
        const lines = state.map.rows(first, row, 4096).filter((line) => line < state.first);
        if (lines.length > step) first = lines[lines.length - step];
        state.first = first;
      }
      state.on = null;
      draw();
    }

    // What a cell looks like. Heights go with the fourth root of the shares, so that one page in a gigabyte shows.
    function fill(contents) {
      const parts = [0, 0, 0, 0, 0, 0];
      for (const [kind, pages] of contents.kinds) {
        const each = state.map.kinds[kind];
        parts[state.mode === "size" ? each.shade : each.change] += pages;
      }
      const hole = contents.to - contents.from - contents.mapped;
      const weight = (pages) => pages > 0 ? Math.pow(pages, 0.25) : 0;
      const order = state.mode === "size" ? [0, 1, 2, 3, 4] : [0, 2, 4, 3, 1];
      const colour = (part) => state.mode === "size" ? shadeColour(part) : `var(--${changes[part]})`;
      const used = order.filter((part) => parts[part] > 0);
      const sum = used.reduce((total, part) => total + weight(parts[part]), 0) + (hole > 1e-3 ? weight(hole) : 0);
      if (used.length === 1 && hole <= 1e-3) return colour(used[0]);
      let from = 0;
      const stops = used.map((part) => {
        const to = from + 100 * weight(parts[part]) / sum;
        const stop = `${colour(part)} ${from.toFixed(1)}% ${to.toFixed(1)}%`;
        from = to;
        return stop;
      });
      if (hole > 1e-3) stops.push(`var(--hole) ${from.toFixed(1)}% 100%`);
      return `linear-gradient(to top,${stops.join(",")})`;
    }
    function permissionOf(contents) {
      let best = rank.length, name = "none";
      for (const kind of contents.kinds.keys()) {
        const permission = state.map.kinds[kind].permission, place = rank.indexOf(permission);
        if (permission !== state.map.usual && place < best) { best = place; name = permission; }
      }
      return name;
    }
    function largest(contents) {
      let shade = 0, most = -1;
      for (const [kind, pages] of contents.kinds) if (pages > most) { most = pages; shade = state.map.kinds[kind].shade; }
      return letters[shade];
    }
    function cellName(contents) {
      if (contents.mapped === 0) return "nothing mapped";
      const sizes = new Map();
      for (const [kind, pages] of contents.kinds) sizes.set(state.map.kinds[kind].size, (sizes.get(state.map.kinds[kind].size) || 0) + pages);
      const permission = permissionOf(contents);
      return [...sizes].map(([size, pages]) => `${state.map.sizes[size].name} leaves ${human(pages * page)}`).join(", ") +
        (permission === "none" ? "" : `; some ${permission}`);
    }
    function describe(contents) {
      const map = state.map;
      const range = `<b>${map.address(contents.from)}-${map.address(contents.to)}</b> ${human((contents.to - contents.from) * page)}`;
      if (contents.mapped === 0) return `${range}<ul><li>nothing is mapped here</li></ul>`;
      const sizes = new Map(), attributes = new Map(), changed = new Map();
      const add = (to, key, pages) => to.set(key, (to.get(key) || 0) + pages);
      for (const [kind, pages] of contents.kinds) {
        const each = map.kinds[kind];
        add(sizes, each.size, pages);
        add(attributes, each.attributes, pages);
        if (each.change > 0) add(changed, each.change, pages);
      }
      const lines = [[...sizes].sort((a, b) => a[0] - b[0]).map(([size, pages]) => {
        const leaves = pages * page / map.sizes[size].bytes;
        const count = leaves >= 0.999 ? `${grouped(leaves)} × ` : "part of ";
        return `${count}${map.sizes[size].name}${leaves >= 0.999 ? ` (${human(Math.round(pages) * page)})` : ""}`;
      }).join(", ")];
      if (contents.to - contents.from - contents.mapped > 1e-3) lines[0] += `, ${human((contents.to - contents.from - contents.mapped) * page)} not mapped`;
      if (changed.size) lines.push([...changed].map(([change, pages]) => `${changeNames[change]}: ${human(Math.round(pages) * page)}`).join(", "));
      if (contents.rough > 0) lines.push("summed up: this map is too large for the report to keep where each page of it is");
      const sorted = [...attributes].sort((a, b) => b[1] - a[1]);
      const words = sorted.slice(0, 6).map(([index, pages]) => `<li class="attributes">${sorted.length > 1 ? human(Math.max(Math.round(pages), 1) * page) + ": " : ""}${escaped(map.attributes[index])}</li>`);
      if (sorted.length > 6) words.push(`<li>and ${sorted.length - 6} other combinations</li>`);
      return `${range}<ul>${lines.map((line) => `<li>${line}</li>`).join("")}${words.join("")}</ul>`;
    }

    function draw(focus = false) {
      const map = state.map, row = state.chunk * state.cols;
      const lines = map.rows(state.first, row, state.rows);
      const html = [];
      state.cells = [];
      let mapped = 0;
      lines.forEach((start, line) => {
        if (line > 0 && start > lines[line - 1] + row)
          html.push(`<div class="gap" role="row"><span role="gridcell">${human((start - lines[line - 1] - row) * page)} of nothing</span></div>`);
        const label = state.label ? `<span class="at" role="rowheader">${map.address(start)}</span>` : "<span></span>";
        html.push(`<div class="row" role="row">${label}`);
        for (let column = 0; column < state.cols; column++) {
          const from = start + column * state.chunk, contents = map.contents(from, from + state.chunk);
          mapped += contents.mapped;
          const index = state.cells.push(contents) - 1;
          const permission = contents.mapped ? ` data-p="${permissionOf(contents)}"` : "";
          const style = contents.mapped ? ` style="background:${fill(contents)}"` : "";
          html.push(`<div class="cell${contents.mapped ? "" : " nothing"}" role="gridcell" tabindex="-1" data-i="${index}"${permission}${style}>` +
            `<span class="letter" aria-hidden="true">${contents.mapped ? largest(contents) : ""}</span></div>`);
        }
        html.push("</div>");
      });
      const hadFocus = grid.contains(document.activeElement); // which goes with the cell that has it
      grid.innerHTML = html.join("");
      grid.setAttribute("aria-rowcount", lines.length);
      grid.setAttribute("aria-colcount", state.cols);
      let index = state.on === null ? state.cells.findIndex((cell) => cell.mapped > 0) : state.cells.findIndex((cell) => cell.from <= state.on && state.on < cell.to);
      if (index < 0) index = 0;
      mark(index, focus && hadFocus);
      const last = lines.length ? lines[lines.length - 1] + row : 0;
      view.textContent = `Each cell is ${human(state.chunk * page)}${state.chunk === 1 ? ", a page of 4 KiB" : ""}. Shown: ${map.address(lines[0] || 0)} to ${map.address(last)}, ` +
        `${human(Math.round(mapped) * page)} of ${human(map.mapped * page)} mapped.`;
      out.disabled = state.chunk >= state.fit;
      into.disabled = state.chunk <= 1;
      whole.disabled = state.chunk >= state.fit && state.first === 0;
      const low = map.position(lines[0] || 0), high = map.position(last);
      back.disabled = low <= 0;
      forth.disabled = high >= map.total;
      const shown = strip.querySelector(".window");
      shown.style.left = `${100 * low / map.total}%`;
      shown.style.width = `${Math.max(100 * (high - low) / map.total, 0.3)}%`;
      strip.setAttribute("aria-valuenow", Math.round(1000 * low / map.total));
      strip.setAttribute("aria-valuetext", `${map.address(lines[0] || 0)} to ${map.address(last)}`);
      drawLegend();
      drawStrip();
      hideTip();
    }
    function drawLegend() {
      const map = state.map, items = [];
      if (state.mode === "size")
        map.sizes.forEach((size) => items.push([`background:${shadeColour(size.shade)}`, null, `${size.name} leaves (${letters[size.shade]})`]));
      else changeNames.forEach((name, index) => items.push([`background:var(--${changes[index]})`, null, name]));
      items.push(["background:var(--hole)", null, "nothing"]);
      for (const [name, pages] of map.permissions)
        if (name !== map.usual) items.push(["", name, `${name}, ${human(pages * page)}`]);
      legend.replaceChildren(...items.map(([style, permission, text]) => make("li", {}, make("span", { class: "swatch", style, "data-p": permission, "aria-hidden": "true" }), text)));
      legend.append(make("li", {}, map.permissions.length > 1 ? `no outline: ${map.usual}` : `all of it ${map.usual}`));
      legend.append(make("li", {}, "Heights in a cell are fourth roots of the shares, so that small ones show."));
    }
    function drawStrip() {
      const canvas = strip.querySelector("canvas"), width = Math.max(strip.clientWidth, 50), height = 26;
      const ratio = Math.min(window.devicePixelRatio || 1, 2);
      canvas.width = width * ratio;
      canvas.height = height * ratio;
      const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
      const colours = new Map();
      const colour = (name) => { if (!colours.has(name)) colours.set(name, style.getPropertyValue(name).trim()); return colours.get(name); };
      const map = state.map, slots = Math.max(Math.floor(width / 2), 1);
      for (let slot = 0; slot < slots; slot++) {
        const from = map.total * slot / slots, to = map.total * (slot + 1) / slots;
        const start = map.place(Math.floor(from)), contents = map.contents(start, Math.max(start + Math.max(to - from, 1), start + 1));
        const parts = [0, 0, 0, 0, 0];
        for (const [kind, pages] of contents.kinds) parts[state.mode === "size" ? map.kinds[kind].shade : map.kinds[kind].change] += Math.pow(pages, 0.25);
        const sum = parts.reduce((a, b) => a + b, 0) || 1;
        let y = canvas.height;
        parts.forEach((part, index) => {
          const size = canvas.height * part / sum;
          if (part === 0) return;
          context.fillStyle = colour(state.mode === "size" ? `--s${index}` : `--${changes[index]}`);
          context.fillRect(canvas.width * slot / slots, y - size, canvas.width / slots + 1, size + 1);
          y -= size;
        });
      }
    }
    const cellAt = (index) => grid.querySelector(`[data-i="${index}"]`);
    function mark(index, focus) {
      const old = grid.querySelector('[tabindex="0"]');
      if (old) { old.tabIndex = -1; old.classList.remove("on"); old.removeAttribute("aria-selected"); }
      const cell = cellAt(index);
      if (!cell) return;
      const contents = state.cells[index];
      cell.tabIndex = 0;
      cell.setAttribute("aria-selected", "true");
      cell.setAttribute("aria-label", `${state.map.address(contents.from)}, ${human((contents.to - contents.from) * page)}: ${cellName(contents)}`);
      cell.setAttribute("aria-describedby", "map-detail");
      if (state.on !== null) cell.classList.add("on");
      if (focus) cell.focus({ preventScroll: true });
      detail.innerHTML = describe(contents);
    }
    function select(index, focus = true) {
      if (index < 0 || index >= state.cells.length) return;
      state.on = state.cells[index].from;
      mark(index, focus);
    }
    const tip = document.getElementById("tip");
    function hideTip() { tip.hidden = true; }
    function showTip(cell) {
      tip.innerHTML = describe(state.cells[Number(cell.dataset.i)]);
      tip.hidden = false;
      const box = cell.getBoundingClientRect(), width = tip.offsetWidth, height = tip.offsetHeight;
      const left = Math.min(Math.max(box.left + box.width / 2 - width / 2, 8), document.documentElement.clientWidth - width - 8);
      const top = box.top - height - 10 > 0 ? box.top - height - 10 : box.bottom + 10;
      tip.style.left = `${left + window.scrollX}px`;
      tip.style.top = `${top + window.scrollY}px`;
    }
    const cellOf = (event) => event.target.closest ? event.target.closest(".cell") : null;
    grid.addEventListener("pointerover", (event) => { const cell = cellOf(event); if (cell && event.pointerType === "mouse") showTip(cell); else hideTip(); });
    grid.addEventListener("pointerleave", hideTip);
    grid.addEventListener("click", (event) => {
      const cell = cellOf(event);
      if (!cell) return;
      const index = Number(cell.dataset.i), again = state.on === state.cells[index].from && event.pointerType === "touch";
      select(index);
      if (again) zoom(1 / 4);
    });
    grid.addEventListener("dblclick", (event) => { if (cellOf(event)) zoom(1 / 16); });
    grid.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const cell = cellOf(event);
      zoom(event.deltaY > 0 ? 4 : 1 / 4, cell ? state.cells[Number(cell.dataset.i)].from : undefined);
    }, { passive: false });
    grid.addEventListener("keydown", (event) => {
      const cell = cellOf(event);
      if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
      const index = Number(cell.dataset.i), column = index % state.cols;
      const keys = {
        ArrowLeft: () => select(index - 1), ArrowRight: () => select(index + 1),
        ArrowUp: () => index < state.cols ? edge(-1, column) : select(index - state.cols),
        ArrowDown: () => index + state.cols >= state.cells.length ? edge(1, column) : select(index + state.cols),
        Home: () => select(index - column), End: () => select(Math.min(index - column + state.cols, state.cells.length) - 1),
        PageUp: () => edge(-1, column), PageDown: () => edge(1, column),
        "+": () => zoom(1 / 4), "=": () => zoom(1 / 4), Enter: () => zoom(1 / 4), " ": () => zoom(1 / 4),
        "-": () => zoom(4), Escape: () => zoom(4), "0": () => { fit(); draw(); refocus(); },
      };
      if (!keys[event.key]) return;
      event.preventDefault();
      if (["+", "=", "-", "Enter", " ", "Escape"].includes(event.key)) state.on = state.cells[index].from;
      keys[event.key]();
    });
    function refocus() { const cell = grid.querySelector('[tabindex="0"]'); if (cell) cell.focus({ preventScroll: true }); }
    /** Goes on behind the first or the last row, and stays in the column. */
    function edge(screens, column) {
      const first = state.first;
      pan(screens);
      if (state.first === first) return;
      const lines = Math.floor(state.cells.length / state.cols);
      select(column + (screens > 0 ? Math.min(1, lines - 1) : Math.max(lines - 2, 0)) * state.cols);
    }
    function moveTo(x) {
      const box = strip.getBoundingClientRect(), row = state.chunk * state.cols;
      const position = Math.min(Math.max((x - box.left) / box.width, 0), 0.9999) * state.map.total;
      if (state.chunk >= state.fit) { // nothing to move yet: look closer, there
        state.chunk = Math.max(state.fit / 16, 1);
        show(state.map.place(Math.floor(position)));
        return;
      }
      const before = Math.max(position - row * state.rows / 2, 0);
      state.first = Math.floor(state.map.place(Math.floor(before)) / row) * row;
      state.on = null;
      draw();
    }
    strip.addEventListener("pointerdown", (event) => { strip.setPointerCapture(event.pointerId); moveTo(event.clientX); });
    strip.addEventListener("pointermove", (event) => { if (strip.hasPointerCapture(event.pointerId)) moveTo(event.clientX); });
    strip.addEventListener("keydown", (event) => {
      const keys = { ArrowLeft: -1, ArrowUp: -1, PageUp: -1, ArrowRight: 1, ArrowDown: 1, PageDown: 1 };
      if (!(event.key in keys)) return;
      event.preventDefault();
      pan(keys[event.key]);
    });
    let width = 0;
    new ResizeObserver(() => {
      if (!state.map || section.clientWidth === width) return;
      width = section.clientWidth;
      const cols = state.cols, wasWhole = state.chunk >= state.fit;
      measure();
      if (cols === state.cols) { drawStrip(); return; }
      const chunk = state.chunk, on = state.on, first = state.first;
      fit();
      if (!wasWhole) { state.chunk = Math.min(chunk, state.fit); state.first = Math.floor(first / (state.chunk * state.cols)) * state.chunk * state.cols; state.on = on; }
      draw();
    }).observe(section);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawStrip());

    /** For tables that point into the map. */
    section.showRange = (index, address, bytes) => {
      if (maps[index] !== state.map) { pick.value = index; choose(index); }
      const at = Number((BigInt(address) - state.map.base) / BigInt(page)), pages = Math.max(bytes / page, 1);
      state.chunk = 1;
      while (state.chunk * state.cols * 4 < pages && state.chunk < state.fit) state.chunk *= 2;
      if (state.chunk > state.fit) state.chunk = state.fit;
      show(at);
      section.scrollIntoView({ block: "start" });
      refocus();
    };
    main.append(section);
    choose(0);
    return section;
  }

  // ---- Over time

  function timelineSection(timeline) {
    const section = make("section", { class: "timeline" });
    const series = timeline.series;
    const metrics = [["leaves", "Leaves", grouped], ["tables", "Page tables", human], ["reach", "TLB reach", human]]
      .concat((timeline.metrics || []).map((metric) => [metric.key, metric.name, metric.unit === "bytes" ? human : grouped]))
      .filter(([key]) => series.some((each) => each.points.some((point) => point[key] > 0)));
    const dashes = ["", "7 4", "2 3", "9 3 2 3", "12 4", "4 2"];
    const lines = make("figure"), readout = make("p", { class: "readout", "aria-live": "polite" }, "Point at a chart, or focus it and use the arrow keys, for the numbers of a moment.");
    const pick = make("select", { onchange: () => drawLines() }, ...metrics.map(([key, name]) => make("option", { value: key }, name)));
    const legend = make("ul", { class: "legend" }, ...series.map((each, index) => make("li", {},
      (() => { const svg = make("svg", { viewBox: "0 0 26 10", style: "width:26px;height:10px", "aria-hidden": "true" });
        svg.append(make("line", { x1: 0, y1: 5, x2: 26, y2: 5, style: `stroke:var(--l${index % 6});stroke-width:2.5`, "stroke-dasharray": dashes[index % 6] })); return svg; })(),
      `${each.name}${each.detail ? ": " + each.detail : ""}`)));
    const charts = make("div", { class: "charts" });
    section.append(make("h2", {}, timeline.title), make("p", { class: "note" }, timeline.note));
    if (metrics.length) section.append(make("div", { class: "bar" }, make("label", {}, "Show", pick)), lines, legend);
    section.append(make("h2", { style: "margin-top:18px" }, "Leaf mix over time"),
      make("p", { class: "note" }, "RAM by leaf size at each step. Heights are fourth roots of the shares, so that small ones show."),
      (() => {
        const sizes = [];
        series.forEach((each) => each.sizes.forEach((size) => { if (!sizes.some((known) => known.name === size.name)) sizes.push(size); }));
        return make("ul", { class: "legend" }, ...sizes.map((size) => make("li", {}, make("span", { class: "swatch", style: `background:${shadeColour(size.shade)}` }), size.name)));
      })(), charts, readout);

    const width = 760, height = 250, left = 64, right = 12, top = 12, bottom = 26;
    const steps = Math.max(...series.map((each) => each.points.length));
    const x = (index, count = steps, from = left, to = width - right) => count < 2 ? (from + to) / 2 : from + (to - from) * index / (count - 1);
    function time(milliseconds) {
      const seconds = milliseconds / 1000;
      return seconds < 120 ? `${Number(seconds.toFixed(1))} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Number((seconds / 3600).toFixed(1))} h`;
    }
    function tell(index, only) {
      const parts = series.filter((each) => (!only || each === only) && each.points[index]).map((each) => {
        const point = each.points[index];
        const mix = only ? "; " + each.sizes.map((size, at) => point.mix[at] ? `${grouped(point.mix[at])} × ${size.name}` : "").filter(Boolean).join(", ") : "";
        return `<b>${escaped(each.name)}</b> ${metrics.map(([key, name, format]) => `${name.toLowerCase()} ${format(point[key])}`).join(", ")}${mix}`;
      });
      const source = (only || series.find((each) => each.points[index])).points[index];
      readout.innerHTML = `Step ${index + 1}, ${time(source.time)}: ${escaped(source.label)}<br>${parts.join("<br>")}`;
    }
    /** Lets a pointer and the arrow keys walk along the steps of a chart. */
    function walkable(svg, from, to, count, only) {
      let index = -1;
      const rule = make("line", { class: "rule", y1: top, y2: height - bottom, visibility: "hidden" });
      svg.append(rule);
      const go = (next) => {
        index = Math.min(Math.max(next, 0), count - 1);
        rule.setAttribute("x1", x(index, count, from, to));
        rule.setAttribute("x2", x(index, count, from, to));
        rule.setAttribute("visibility", "visible");
        tell(index, only);
      };
      svg.addEventListener("pointermove", (event) => {
        const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
        go(Math.round((at - from) / (to - from) * (count - 1)));
      });
      svg.addEventListener("keydown", (event) => {
        const next = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: count - 1 }[event.key];
        if (next === undefined) return;
        event.preventDefault();
        go(next);
      });
    }
    function drawLines() {
      const [key, name, format] = metrics.find(([each]) => each === pick.value) || metrics[0];
      const values = series.flatMap((each) => each.points.map((point) => point[key])).filter((value) => value > 0);
      const low = Math.floor(Math.log2(Math.min(...values))), high = Math.max(Math.ceil(Math.log2(Math.max(...values))), low + 1);
      const y = (value) => height - bottom - (height - top - bottom) * ((value > 0 ? Math.log2(value) : low) - low) / (high - low);
      const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, tabindex: "0", role: "img",
        "aria-label": `${name} over ${steps} steps, on a logarithmic scale. ` + series.map((each) => `${each.name}: from ${format(each.points[0][key])} to ${format(each.points[each.points.length - 1][key])}`).join("; ") });
      const ticks = Math.max(Math.ceil((high - low) / 5), 1);
      for (let power = low; power <= high; power += ticks) {
        svg.append(make("line", { class: "axis", x1: left, x2: width - right, y1: y(2 ** power), y2: y(2 ** power) }),
          make("text", { x: left - 6, y: y(2 ** power) + 4, "text-anchor": "end" }, key === "leaves" || format === grouped ? short(2 ** power) : human(2 ** power)));
      }
      svg.append(make("text", { x: left, y: height - 6 }, "step 1"), make("text", { x: width - right, y: height - 6, "text-anchor": "end" }, `step ${steps}, ${time(Math.max(...series.map((each) => each.points[each.points.length - 1].time)))}`));
      series.forEach((each, index) => {
        const d = each.points.map((point, step) => `${step ? "L" : "M"}${x(step).toFixed(1)} ${y(point[key]).toFixed(1)}`).join("");
        svg.append(make("path", { class: "series", d, style: `stroke:var(--l${index % 6})`, "stroke-dasharray": dashes[index % 6] }));
      });
      walkable(svg, left, width - right, steps, null);
      lines.replaceChildren(make("figcaption", {}, name, make("span", {}, ", logarithmic")), svg);
    }
    const short = (number) => number >= 1e6 ? `${Number((number / 1e6).toFixed(1))} M` : number >= 1e4 ? `${Math.round(number / 1e3)} k` : grouped(number);
    series.forEach((each) => {
      const w = 380, h = 120, count = each.points.length;
      const svg = make("svg", { viewBox: `0 0 ${w} ${h}`, tabindex: "0", role: "img",
        "aria-label": `Leaf mix under ${each.name}, ${count} steps. At the end: ` + each.sizes.map((size, at) => `${grouped(each.points[count - 1].mix[at])} of ${size.name}`).join(", ") });
      const stacks = each.points.map((point) => {
        const weights = each.sizes.map((size, at) => Math.pow(point.mix[at] * size.bytes, 0.25)), sum = weights.reduce((a, b) => a + b, 0) || 1;
        let from = 0;
        return weights.map((weight) => { const part = [from / sum, (from + weight) / sum]; from += weight; return part; });
      });
      // Steps, not slopes: a map is what it is until the next change.
      each.sizes.forEach((size, at) => {
        const column = (step) => [w * step / count, w * (step + 1) / count];
        const upper = stacks.map((stack, step) => { const [a, b] = column(step), y = h - h * stack[at][1]; return `${a.toFixed(1)} ${y.toFixed(1)}L${b.toFixed(1)} ${y.toFixed(1)}`; });
        const lower = stacks.map((stack, step) => { const [a, b] = column(step), y = h - h * stack[at][0]; return `${b.toFixed(1)} ${y.toFixed(1)}L${a.toFixed(1)} ${y.toFixed(1)}`; }).reverse();
        svg.append(make("path", { d: `M${upper.join("L")}L${lower.join("L")}Z`, style: `fill:${shadeColour(size.shade)}` }));
      });
      walkable(svg, w / count / 2, w - w / count / 2, count, each);
      charts.append(make("figure", {}, make("figcaption", {}, each.name, make("span", {}, each.detail ? ` ${each.detail}` : "")), svg));
    });
    if (metrics.length) drawLines();
    section.append(make("details", {}, make("summary", {}, "The same as a table"), tableOf({
      columns: [{ name: "step" }, { name: "time", number: true }, ...series.map((each) => ({ name: `${each.name}, leaves`, number: true }))],
      rows: Array.from({ length: steps }, (unused, step) => {
        const known = series.find((each) => each.points[step]).points[step];
        return [known.label, time(known.time), ...series.map((each) => each.points[step] ? grouped(each.points[step].leaves) : "")];
      }) })));
    main.append(section);
  }

  // ---- Tables

  function tableOf(table, mapView) {
    const places = table.places || [];
    const withPlaces = mapView && places.some((place) => place);
    const head = make("tr", {}, ...table.columns.map((column) => make("th", { scope: "col", class: column.number ? "n" : null }, column.name)), withPlaces ? make("th", { scope: "col" }, "") : null);
    const body = table.rows.map((cells, index) => {
      const row = make("tr", {}, ...cells.map((cell, at) => make("td", { class: [table.columns[at].number ? "n" : "", /^0x[0-9a-f]/.test(cell) ? "mono" : cell.length > 40 ? "long" : ""].join(" ").trim() || null }, cell)));
      if (withPlaces) {
        const place = places[index];
        row.append(make("td", {}, place ? make("button", { type: "button", "aria-label": `Show ${cells[0]} on the map`, onclick: () => mapView.showRange(place[0], place[1], place[2]) }, "on the map") : ""));
      }
      return row;
    });
    return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": table.title || "table" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  // ---- The page

  document.getElementById("kind").textContent = data.kind;
  document.getElementById("subtitle").textContent = data.subtitle;
  if (data.verdict.text) main.append(make("div", { class: `verdict ${data.verdict.tone}` }, data.verdict.text,
    data.verdict.details.length ? make("ul", {}, ...data.verdict.details.map((line) => make("li", {}, line))) : null));
  if (data.facts.length) main.append(make("dl", { class: "facts" }, ...data.facts.map((fact) => make("div", {}, make("dt", {}, fact.name), make("dd", { class: "value" }, fact.value), fact.note ? make("dd", { class: "more" }, fact.note) : null))));
  const maps = data.maps.filter((map) => map.runs.length).map((map) => new MemoryMap(map));
  const early = data.tables.filter((table) => table.early), late = data.tables.filter((table) => !table.early);
  const addTable = (table, mapView) => main.append(make("section", {}, make("h2", {}, table.title), table.note ? make("p", { class: "note" }, table.note) : null, tableOf(table, mapView)));
  early.forEach((table) => addTable(table, null));
  const timelines = data.timelines.filter((timeline) => timeline.series.some((each) => each.points.length));
  timelines.forEach(timelineSection);
  const mapView = maps.length ? mapSection(maps) : null;
  late.forEach((table) => addTable(table, mapView));
  const copy = make("button", { type: "button", onclick: async () => {
    try { await navigator.clipboard.writeText(data.command); copy.textContent = "Copied"; } catch { copy.textContent = "Select and copy"; }
  } }, "Copy");
  document.getElementById("footer").append(
    make("p", {}, "These numbers were made by this command:"),
    make("div", { class: "command" }, make("code", {}, data.command), copy),
    make("p", {}, `${data.version}${data.made ? `, ${data.made}` : ""}. The page is complete in itself and loads nothing; its data is the JSON in the element with the id “data” (${data.schema}).`));
  document.documentElement.dataset.ready = "yes";
})();
