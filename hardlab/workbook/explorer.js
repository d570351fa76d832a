(() => {
  "use strict";
  /* The colours of explorer.css as a canvas takes them: those of the theme that is shown now. */
  const NAMES = ["blue", "orange", "red", "grey", "line", "soft", "ink"], theme = {};
  const recolour = (page) => {
    const probe = page.appendChild(document.createElement("span"));
    for (const name of NAMES) { probe.style.color = `var(--${name})`; theme[name] = getComputedStyle(probe).color; }
    probe.remove();
  };

  const el = (tag, props = {}, ...kids) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(props)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (key in node && key !== "list") node[key] = value;
      else node.setAttribute(key, value);
    }
    /* JupyterLab's shortcuts take the arrow keys of whatever has the focus, but of elements with this attribute */
    if (["input", "button", "select", "canvas"].includes(tag)) node.setAttribute("data-lm-suppress-shortcuts", "true");
    node.append(...kids);
    return node;
  };
  const number = (x) => (x === null ? "–" : Math.abs(x) < 1e-12 ? "0" : String(+x.toPrecision(3)));
  const range = (values) => {
    let lo = Infinity, hi = -Infinity;
    for (const v of values) if (v !== null) { if (v < lo) lo = v; if (v > hi) hi = v; }
    if (!(hi > lo)) { lo = (Number.isFinite(lo) ? lo : 0) - 0.5; hi = lo + 1; }
    const pad = (hi - lo) * 0.04;
    return [lo - pad, hi + pad];
  };

  /* One slider in a row: a name, the native range input, and what it stands at. */
  const slider = (name, max, show, changed) => {
    const input = el("input", { type: "range", min: 0, max, value: 0, "aria-label": name });
    const out = el("output");
    const told = () => { out.textContent = show(+input.value); input.setAttribute("aria-valuetext", out.textContent); };
    input.addEventListener("input", () => { told(); changed(+input.value); });
    told();
    return {
      row: el("label", { className: "hl-slider" }, el("span", {}, name), input, out),
      get value() { return +input.value; },
      set(value, most = +input.max) { input.max = most; input.value = value; input.disabled = most < 1; told(); },
    };
  };

  const loaded = (src, then) => {
    const image = new Image();
    image.addEventListener("load", then);
    if (src) image.src = src;
    return image;
  };

  const place = (atlas, i) => {
    const [w, h] = atlas.sizes[i];
    return [(i % atlas.columns) * atlas.side, Math.floor(i / atlas.columns) * atlas.side, w, h];
  };

  /* The class of an atlas' pictures: its long address is read once, not in the style of each of them. */
  const sheets = new Map();
  const sheetOf = (atlas) => {
    if (!sheets.has(atlas)) {
      sheets.set(atlas, `hl-sheet-${Math.random().toString(36).slice(2)}`); /* a notebook may hold several explorers */
      document.head.append(el("style", {}, `.${sheets.get(atlas)} { background-image: url(${atlas.src}); }`));
    }
    return sheets.get(atlas);
  };

  /* A picture of an atlas as an element of ``size`` pixels. */
  const tile = (atlas, i, size) => {
    const node = el("span", { className: atlas && i >= 0 ? `hl-tile ${sheetOf(atlas)}` : "hl-tile" });
    node.style.width = node.style.height = `${size}px`;
    if (atlas && i >= 0) {
      const [x, y, w, h] = place(atlas, i), scale = size / atlas.side;
      const all = [atlas.columns, Math.ceil(atlas.sizes.length / atlas.columns)].map((n) => `${n * size}px`);
      Object.assign(node.style, { backgroundSize: all.join(" "),
        backgroundPosition: `${-x * scale}px ${-y * scale}px`, width: `${w * scale}px`, height: `${h * scale}px` });
    }
    return node;
  };

  const context = (canvas) => { const c = canvas.getContext("2d"); c.imageSmoothingEnabled = true; return c; };
  const where = (canvas, event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
  };

  /* About four round numbers in a range. */
  const ticks = ([lo, hi]) => {
    const raw = (hi - lo) / 5, unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= raw), out = [];
    for (let k = Math.ceil(lo / step); k * step <= hi; k++) out.push(k * step);
    return out;
  };

  /* Axes with ticks; returns the maps from values to pixels. */
  const axes = (c, xs, ys, xname, yname) => {
    const { width, height } = c.canvas, left = 64, right = width - 12, top = 12, bottom = height - 46;
    c.clearRect(0, 0, width, height);
    c.fillStyle = theme.ink; c.strokeStyle = theme.line; c.lineWidth = 1; c.font = "18px system-ui, sans-serif";
    const X = (v) => left + ((v - xs[0]) / (xs[1] - xs[0])) * (right - left);
    const Y = (v) => bottom - ((v - ys[0]) / (ys[1] - ys[0])) * (bottom - top);
    for (const x of ticks(xs)) {
      c.beginPath(); c.moveTo(X(x), top); c.lineTo(X(x), bottom); c.stroke();
      c.textAlign = "center"; c.fillText(number(x), X(x), bottom + 20);
    }
    for (const y of ticks(ys)) {
      c.beginPath(); c.moveTo(left, Y(y)); c.lineTo(right, Y(y)); c.stroke();
      c.textAlign = "right"; c.fillText(number(y), left - 6, Y(y) + 6);
    }
    c.textAlign = "center"; c.fillText(xname, (left + right) / 2, height - 6);
    c.save(); c.translate(16, (top + bottom) / 2); c.rotate(-Math.PI / 2); c.fillText(yname, 0, 0); c.restore();
    return [X, Y];
  };

  /* Lines over x as SVG, with a mark at one place. */
  const lines = (xs, series, xname) => {
    const W = 420, H = 170, left = 46, bottom = 28, ns = "http://www.w3.org/2000/svg";
    const [x0, x1] = range(xs), [y0, y1] = range(series.flatMap((s) => s.values));
    const X = (v) => left + ((v - x0) / (x1 - x0)) * (W - left - 8), Y = (v) => H - bottom - ((v - y0) / (y1 - y0)) * (H - bottom - 22);
    const make = (tag, props, text) => {
      const node = document.createElementNS(ns, tag);
      for (const [k, v] of Object.entries(props)) node.setAttribute(k, v);
      if (text !== undefined) node.textContent = text;
      return node;
    };
    const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", style: "width:100%;max-width:26rem" });
    svg.append(make("line", { x1: left, x2: W - 8, y1: H - bottom, y2: H - bottom, stroke: "var(--grey)" }));
    for (const v of [y0, y1]) svg.append(make("text", { x: left - 4, y: Y(v) + 4, "text-anchor": "end" }, v.toPrecision(3)));
    for (const v of [xs[0], xs[xs.length - 1]]) svg.append(make("text", { x: X(v), y: H - 14, "text-anchor": "middle" }, number(v)));
    svg.append(make("text", { x: (left + W) / 2, y: H - 2, "text-anchor": "middle" }, xname));
    series.forEach((s, i) => {
      const points = xs.map((x, k) => [x, s.values[k]]).filter(([, y]) => y !== null).map(([x, y]) => `${X(x)},${Y(y)}`);
      const style = { fill: "none", stroke: s.colour, "stroke-width": 2, "stroke-dasharray": s.dash || "none" };
      svg.append(make("polyline", { points: points.join(" "), ...style }));
      svg.append(make("text", { x: left + 6 + 120 * i, y: 12, style: `fill:${s.colour}` }, s.name));
    });
    const mark = make("line", { y1: 18, y2: H - bottom, stroke: "var(--ink)", "stroke-dasharray": "3 3" });
    svg.append(mark);
    return { svg, at(x) { mark.setAttribute("x1", X(x)); mark.setAttribute("x2", X(x)); } };
  };

  /* The ledger: images by hardness, the crops of one on it, its pairs by loss, and all pairs as linked points. */
  const ledger = (host, data) => {
    const images = data.images, state = { i: 0, o: 0, r: 0, picked: null };
    const sheet = loaded(data.atlas && data.atlas.src, () => draw());
    const thumbs = el("div", { className: "hl-thumbs", role: "listbox", "aria-label": "Images, hardest first" });
    const view = el("canvas", { className: "hl-view", width: 400, height: 400, role: "img" });
    const status = el("p", { className: "hl-status", role: "status" });
    const text = el("p", { className: "hl-status", role: "status" });
    const entry = () => images[state.i], seen = () => entry().at[state.o];
    const rank = slider("rank of pair", 0, (v) => `${v + 1} of ${seen().pairs.length}`, (v) => { state.r = v; draw(); });
    const epoch = slider("epoch", 0, (v) => `epoch ${entry().at[v].epoch + 1}, step ${entry().at[v].step}`,
      (v) => { state.o = v; state.r = Math.min(state.r, seen().pairs.length - 1); rank.set(state.r, seen().pairs.length - 1); draw(); });

    const points = [];
    images.forEach((image, i) => image.at.forEach((at, o) => at.pairs.forEach((p, r) => points.push({ i, o, r, x: [p[4], p[5]], y: p[2] }))));
    const names = ["overlap of the two crops (IoU)", "distance in colour"];
    const ys = range(points.map((p) => p.y));
    const plots = names.map((name, k) => {
      const canvas = el("canvas", { className: "hl-plot", width: 640, height: 460, tabIndex: 0, role: "application",
        "aria-label": `Loss over ${name}. Enter places a brush, arrow keys move it, Shift with an arrow key resizes it, Escape clears it.` });
      return { k, name, canvas, c: context(canvas), xs: range(points.map((p) => p.x[k])), brush: null };
    });

    const inside = (plot, p) => {
      const b = plot.brush;
      if (!b || p.x[plot.k] === null || p.y === null) return !b;
      const x = plot.X(p.x[plot.k]), y = plot.Y(p.y);
      return x >= Math.min(b[0], b[2]) && x <= Math.max(b[0], b[2]) && y >= Math.min(b[1], b[3]) && y <= Math.max(b[1], b[3]);
    };
    const select = () => {
      const brushed = plots.some((plot) => plot.brush);
      state.picked = null;
      if (brushed) {
        const chosen = points.filter((p) => plots.every((plot) => inside(plot, p)));
        state.picked = new Set(chosen);
        const of = new Set(chosen.map((p) => p.i));
        [...thumbs.children].forEach((b, i) => { b.hidden = !of.has(i); });
        status.textContent = `${chosen.length} pairs of ${of.size} images are selected; Escape clears the brush.`;
        if (of.size && !of.has(state.i)) { const p = chosen[0]; go(p.i, p.o, p.r); return; }
      } else {
        [...thumbs.children].forEach((b) => { b.hidden = false; });
        status.textContent = `${points.length} pairs of ${images.length} images. Drag in a plot to select.`;
      }
      draw();
    };
    const scatter = () => plots.forEach((plot) => {
      [plot.X, plot.Y] = axes(plot.c, plot.xs, ys, plot.name, "loss");
      const c = plot.c, spot = (p, colour, size) => {
        if (p.x[plot.k] === null || p.y === null) return;
        c.fillStyle = colour; c.fillRect(plot.X(p.x[plot.k]) - size / 2, plot.Y(p.y) - size / 2, size, size);
      };
      c.globalAlpha = 0.45;
      for (const p of points) if (!state.picked || !state.picked.has(p)) spot(p, state.picked ? theme.line : theme.grey, 4);
      c.globalAlpha = 0.8;
      if (state.picked) for (const p of state.picked) spot(p, theme.red, 5);
      c.globalAlpha = 1;
      for (const p of points) if (p.i === state.i && p.o === state.o) spot(p, p.r === state.r ? theme.ink : theme.blue, p.r === state.r ? 13 : 9);
      if (plot.brush) {
        const b = plot.brush;
        c.strokeStyle = theme.ink; c.lineWidth = 2; c.setLineDash([6, 4]); c.strokeRect(b[0], b[1], b[2] - b[0], b[3] - b[1]); c.setLineDash([]);
      }
    });
    const draw = () => {
      const c = context(view), at = seen(), pair = at.pairs[state.r], scale = Math.min(400 / at.w, 400 / at.h);
      view.width = Math.max(1, Math.round(at.w * scale)); view.height = Math.max(1, Math.round(at.h * scale));
      c.fillStyle = theme.soft; c.fillRect(0, 0, view.width, view.height);
      if (data.atlas && sheet.complete && sheet.naturalWidth)
        c.drawImage(sheet, ...place(data.atlas, state.i), 0, 0, view.width, view.height);
      const box = ([, top, left, height, width], colour, wide, dash) => {
        for (const [stroke, w] of [["#fff", wide + 2], [colour, wide]]) {
          c.strokeStyle = stroke; c.lineWidth = w; c.setLineDash(stroke === "#fff" ? [] : dash);
          c.strokeRect(left * scale, top * scale, width * scale, height * scale);
        }
        c.setLineDash([]);
      };
      at.views.forEach((v) => box(v, theme.grey, 1, []));
      const [a, b] = [0, 1].map((s) => at.views.find((v) => v[0] === pair[s]));
      box(a, theme.blue, 4, []); box(b, theme.orange, 4, [9, 5]);
      text.textContent = `${entry().name}${entry().label ? ` (${entry().label})` : ""}: pair ${state.r + 1} of ${at.pairs.length}, ` +
        `views ${pair[0] + 1} (blue) and ${pair[1] + 1} (orange, dashed), loss ${number(pair[2])} (percentile ${number(pair[3])} of its step), ` +
        `IoU ${number(pair[4])}, distance in colour ${number(pair[5])}${pair[6] ? "; this pair was trained on." : "."}`;
      view.setAttribute("aria-label", text.textContent);
      [...thumbs.children].forEach((button, i) => {
        button.setAttribute("aria-selected", i === state.i); button.tabIndex = i === state.i ? 0 : -1;
      });
      scatter();
    };
    const go = (i, o = images[i].at.length - 1, r = 0) => {
      Object.assign(state, { i, o, r });
      epoch.set(o, entry().at.length - 1); rank.set(r, seen().pairs.length - 1);
      draw();
    };
    images.forEach((image, i) => thumbs.append(el("button", {
      type: "button", role: "option", title: `${image.name}${image.label ? ` (${image.label})` : ""}, percentile ${number(image.percentile)}`,
      "aria-label": `${image.name}, percentile ${number(image.percentile)}`, onclick: () => go(i) }, tile(data.atlas, data.atlas ? i : -1, 40))));
    thumbs.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -1e9, End: 1e9 }[event.key];
      if (!move) return;
      event.preventDefault();
      const shown = images.map((_, i) => i).filter((i) => !thumbs.children[i].hidden);
      const to = shown[Math.max(0, Math.min(shown.length - 1, shown.indexOf(state.i) + move))];
      if (to !== undefined) { go(to); thumbs.children[to].focus(); }
    });
    const clear = () => { plots.forEach((plot) => { plot.brush = null; }); select(); };
    plots.forEach((plot) => {
      const { canvas } = plot;
      let from = null;
      canvas.addEventListener("pointerdown", (event) => { from = where(canvas, event); canvas.setPointerCapture(event.pointerId); });
      canvas.addEventListener("pointermove", (event) => {
        if (!from) return;
        const to = where(canvas, event);
        if (Math.abs(to[0] - from[0]) + Math.abs(to[1] - from[1]) > 6) { plot.brush = [...from, ...to]; select(); }
      });
      canvas.addEventListener("pointerup", (event) => {
        const to = where(canvas, event), clicked = from && Math.abs(to[0] - from[0]) + Math.abs(to[1] - from[1]) <= 6;
        from = null;
        if (!clicked) return;
        if (plot.brush) { clear(); return; }
        let best = null, least = 200;
        for (const p of points) {
          const d = (plot.X(p.x[plot.k]) - to[0]) ** 2 + (plot.Y(p.y) - to[1]) ** 2;
          if (d < least) { least = d; best = p; }
        }
        if (best) go(best.i, best.o, best.r);
      });
      canvas.addEventListener("keydown", (event) => {
        const step = { ArrowRight: [24, 0], ArrowLeft: [-24, 0], ArrowUp: [0, -24], ArrowDown: [0, 24] }[event.key];
        if (event.key === "Escape") { clear(); return; }
        if (event.key === "Enter" || event.key === " ") plot.brush = [220, 120, 420, 280];
        else if (step && plot.brush) plot.brush = plot.brush.map((v, k) => (event.shiftKey && k < 2 ? v : v + step[k % 2]));
        else return;
        event.preventDefault();
        select();
      });
    });
    host.addEventListener("keydown", (event) => { if (event.key === "Escape" && plots.some((p) => p.brush)) clear(); });
    host.append(thumbs, el("div", { className: "hl-row" }, el("div", {}, view, rank.row, epoch.row, text),
      el("div", {}, ...plots.map((p) => p.canvas), status)));
    go(0);
    select();
    return draw;
  };

  /* Negatives and queries in the plane at several checkpoints; the face of a negative is its nearest query's image. */
  const negatives = (host, data) => {
    const canvas = el("canvas", { className: "hl-plot", width: 640, height: 640, tabIndex: 0, role: "application",
      "aria-label": "Negatives and queries by t-SNE. Left and right move from point to point, Escape ends." });
    const c = context(canvas), face = el("p", { className: "hl-status", role: "status" });
    let now = data.at[data.at.length - 1], hot = -1;
    const xy = (p) => [24 + p[0] * 592, 24 + p[1] * 592];
    const draw = () => {
      c.clearRect(0, 0, 640, 640);
      now.points.forEach((p, i) => {
        const [x, y] = xy(p), size = i === hot ? 9 : 4;
        c.fillStyle = p[2] ? theme.orange : theme.blue; c.globalAlpha = i === hot ? 1 : 0.75;
        c.beginPath();
        if (p[2]) c.arc(x, y, size, 0, 7); else c.rect(x - size, y - size, 2 * size, 2 * size);
        c.fill();
        if (i === hot) { c.strokeStyle = theme.ink; c.lineWidth = 3; c.stroke(); }
      });
      c.globalAlpha = 1;
      face.replaceChildren();
      if (hot < 0) { face.append("Orange discs: negatives. Blue squares: queries. Point at one, or use the arrow keys."); return; }
      const p = now.points[hot], name = p[4] < 0 ? "" : data.names[p[4]].filter(Boolean).join(", ");
      face.append(tile(data.atlas, p[4], 80), p[2] ? ` negative; its nearest query is a view of ${name || "an image without a row"}, cosine ${number(p[3])}`
        : ` query, a view of ${name || "an image without a row"}`);
    };
    const step = slider("checkpoint", data.at.length - 1, (v) => `epoch ${number(data.at[v].epoch)}, step ${data.at[v].step}`,
      (v) => { now = data.at[v]; hot = Math.min(hot, now.points.length - 1); draw(); });
    step.set(data.at.length - 1);
    canvas.addEventListener("pointermove", (event) => {
      const at = where(canvas, event);
      let best = -1, least = 400;
      now.points.forEach((p, i) => { const [x, y] = xy(p), d = (x - at[0]) ** 2 + (y - at[1]) ** 2; if (d < least) { least = d; best = i; } });
      if (best !== hot) { hot = best; draw(); }
    });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") hot = -1;
      else if (move) {
        const order = now.points.map((_, i) => i).sort((a, b) => now.points[a][0] - now.points[b][0]);
        hot = order[Math.max(0, Math.min(order.length - 1, order.indexOf(hot) + move))];
        event.preventDefault();
      } else return;
      draw();
    });
    host.append(el("div", { className: "hl-row" }, el("div", {}, canvas), el("div", {}, step.row, face)));
    draw();
    return draw;
  };

  const generated = (host, data) => {
    const canvas = el("canvas", { className: "hl-view", role: "img", width: data.count * data.side, height: 2 * data.side });
    canvas.style.width = "100%"; canvas.style.maxWidth = `${Math.max(480, data.count * data.side)}px`; canvas.style.imageRendering = "pixelated";
    const out = el("p", { className: "hl-status", role: "status" });
    const strips = data.at.map((at) => loaded(at.strip, () => draw()));
    const curve = data.loss.length > 1 ? lines(data.loss.map((r) => r[0]), [
      { name: "loss on generated", values: data.loss.map((r) => r[2]), colour: "var(--red)" },
      { name: "loss on real", values: data.loss.map((r) => r[1]), colour: "var(--grey)", dash: "5 3" }], "step") : null;
    const draw = () => {
      const at = data.at[step.value], scores = Object.entries(at.scores).map(([k, v]) => `${k.replaceAll("_", " ")} ${number(v)}`);
      context(canvas).drawImage(strips[step.value], 0, 0);
      out.textContent = `Top: G. Bottom: its average, of the same latents. ${scores.join(", ")}.`;
      canvas.setAttribute("aria-label", `Images of ${data.count} latents at step ${at.step}`);
      if (curve) curve.at(at.step);
    };
    const step = slider("checkpoint", data.at.length - 1, (v) => `epoch ${number(data.at[v].epoch)}, step ${data.at[v].step}`, () => draw());
    step.set(data.at.length - 1);
    host.append(step.row, canvas, out, ...(curve ? [curve.svg] : []));
    draw();
  };

  const attack = (host, data) => {
    const n = data.sizes.length, s = data.side, sheet = loaded(data.tiles, () => draw());
    const canvas = el("canvas", { className: "hl-view", width: 480, height: 160, role: "img" });
    const plot = el("div"), out = el("p", { className: "hl-status", role: "status" });
    let curve = null;
    const renew = () => {
      curve = lines(data.sizes, [{ name: "this view", values: data.loss[image.value], colour: "var(--red)" },
        { name: "mean of the batch", values: data.mean, colour: "var(--grey)", dash: "5 3" }], "largest change, grey levels of 255");
      plot.replaceChildren(curve.svg);
      draw();
    };
    const draw = () => {
      if (!curve) return;
      const c = context(canvas), i = image.value, k = size.value;
      c.imageSmoothingEnabled = false;
      c.clearRect(0, 0, 480, 160);
      [0, k, n + k].forEach((column, at) => c.drawImage(sheet, column * s, i * s, s, s, at * 161, 0, 158, 158));
      out.textContent = `Clean; attacked by at most ${number(data.sizes[k])}/255; the change × ${number(data.amplify)}. Loss ${number(data.loss[i][k])}, ` +
        `of the clean view ${number(data.loss[i][0])}.`;
      canvas.setAttribute("aria-label", out.textContent);
      curve.at(data.sizes[k]);
    };
    const image = slider("view", data.loss.length - 1, (v) => `${v + 1} of ${data.loss.length}`, renew);
    const size = slider("size", n - 1, (v) => `${number(data.sizes[v])}/255${v === data.own ? ", as trained" : ""}`, () => draw());
    size.set(data.own);
    host.append(el("div", { className: "hl-row" }, el("div", {}, image.row, size.row, canvas, out), plot));
    renew();
  };

  const methods = (host, data) => {
    const body = el("tbody"), head = el("tr", {}, el("th", {}, "image"));
    const fill = (key) => {
      const rows = data.images.map((image, i) => ({ image, i })).sort((a, b) => key(b.image) - key(a.image));
      body.replaceChildren(...rows.map(({ image, i }) => el("tr", {}, el("td", {}, tile(data.atlas, data.atlas ? i : -1, 32), ` ${image.name}`),
        ...image.percentiles.map((v) => {
          const cell = el("td", {}, number(v)), t = (v || 0) / 100;
          cell.style.background = `rgba(213, 94, 0, ${0.75 * t})`;
          return cell;
        }))));
    };
    data.titles.forEach((title, k) => head.append(el("th", {}, el("button", { type: "button", onclick: () => fill((x) => x.percentiles[k]) }, title))));
    host.append(el("p", { className: "hl-note" }, "A column's button sorts by it, hardest first."),
      el("div", { style: "overflow:auto;max-height:30rem" }, el("table", { className: "hl-heat" }, el("thead", {}, head), body)));
    fill((x) => x.percentiles.reduce((a, b) => a + b, 0));
  };

  const PANELS = { ledger, negatives, generated, attack, methods };

  for (const page of document.querySelectorAll(".hl-ex:not([data-ready])")) {
    page.setAttribute("data-ready", "");
    recolour(page);
    const redraw = new Map();
    const themed = () => { recolour(page); for (const again of redraw.values()) if (again) again(); };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);
    new MutationObserver(themed).observe(document.body, { attributeFilter: ["data-jp-theme-light", "class"] });
    const data = JSON.parse(page.querySelector("script[type='application/json']").textContent);
    for (const section of page.querySelectorAll("section[data-panel]")) {
      const panel = section.dataset.panel, live = section.querySelector(".hl-live"), of = data[panel];
      if (!of || !live) continue;
      live.hidden = false;
      const host = el("div"), show = (name) => { const next = el("div"); host.replaceChildren(next); redraw.set(panel, PANELS[panel](next, of[name])); };
      const names = Object.keys(of);
      if (names.length > 1)
        live.append(el("label", {}, "run ", el("select", { onchange: (event) => show(event.target.value) }, ...names.map((n) => el("option", { value: n }, n)))));
      live.append(host);
      show(names[0]);
    }
  }
})();
