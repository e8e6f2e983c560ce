// Tabs, themes, figures and what can be saved. Without it the page shows everything but the figures.
"use strict";
(() => {
  const root = document.documentElement;
  const stored = JSON.parse(document.getElementById("data").textContent);
  const told = document.getElementById("told");
  const tell = (message) => { told.textContent = ""; told.textContent = message; };
  const panels = [...document.querySelectorAll(".panel")];
  const plots = [...document.querySelectorAll(".plot")];

  // --- Themes: the system's until the reader chooses.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const printer = matchMedia("print");
  const button = document.getElementById("theme");
  let chosen = null;
  const wanted = () => (printing() ? "light" : chosen || (system.matches ? "dark" : "light"));
  let printed = false;
  function printing() { return printed || printer.matches; }

  function paint() {
    const theme = wanted();
    if (root.dataset.theme !== theme) root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", theme === "dark" ? "Switch to light" : "Switch to dark");
    button.setAttribute("aria-pressed", String(theme === "dark"));
    for (const plot of plots) if (plot.dataset.theme && plot.dataset.theme !== theme) draw(plot);
  }

  // --- Figures: drawn when they are first seen, in the colours of the theme.
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const dark = new Map(Object.entries(stored.dark));
  function inked(value) {
    if (typeof value === "string" && value[0] === "#") {
      const twin = dark.get(value.slice(0, 7));
      return twin ? twin + value.slice(7) : value;
    }
    if (Array.isArray(value)) return value.map(inked);
    if (value && typeof value === "object" && !("bdata" in value)) {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, inked(inner)]));
    }
    return value;
  }

  function template() {
    const ink = colour("--ink"), muted = colour("--muted"), grid = colour("--grid");
    const axis = {
      automargin: true, gridcolor: grid, linecolor: colour("--rule"), zerolinecolor: grid,
      exponentformat: "power", tickcolor: grid, tickfont: { color: muted, size: 12 }, title: { font: { color: muted, size: 13 }, standoff: 12 },
      hoverformat: "",
    };
    return { layout: {
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink },
      paper_bgcolor: colour("--paper"), plot_bgcolor: colour("--paper"),
      colorway: root.dataset.theme === "dark" ? stored.colours.map((c) => dark.get(c)) : stored.colours,
      xaxis: axis, yaxis: axis, coloraxis: { colorbar: { outlinewidth: 0, tickfont: { color: muted } } },
      // Above the figure, where no tick label can run into it.
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", font: { color: ink } },
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--rule"), font: { color: ink } },
      annotationdefaults: { font: { color: muted, size: 12 }, arrowcolor: muted, arrowhead: 0, arrowwidth: 1 },
      shapedefaults: { line: { color: muted } },
      margin: { l: 8, r: 12, t: 28, b: 8, pad: 4 },
      barcornerradius: 2, bargap: 0.28, bargroupgap: 0.08,
    } };
  }

  function draw(plot) {
    const figure = stored.figures[plot.dataset.figure];
    const clone = structuredClone(figure);
    const { data, layout } = root.dataset.theme === "dark" ? inked(clone) : clone;
    layout.template = template();
    layout.autosize = true;
    layout.height = plot.clientHeight || figure.layout.height;
    // A finger that drags wants to scroll the page.
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
    plot.dataset.theme = root.dataset.theme;
    return Plotly.react(plot, data, layout, { displayModeBar: false, displaylogo: false, responsive: true, showTips: false });
  }
  const visible = (plot) => plot.offsetParent !== null && !plot.closest("details:not([open])");
  function drawVisible() {
    for (const plot of plots) {
      if (!visible(plot)) continue;
      if (!plot.dataset.theme) draw(plot); else Plotly.Plots.resize(plot);
    }
  }

  // --- Tabs: links to the sections become a tab list (WAI-ARIA Authoring Practices).
  const list = document.getElementById("tabs");
  const tabs = list ? [...list.querySelectorAll("a")] : [];
  function select(panel) {
    for (const one of panels) one.hidden = one !== panel;
    for (const tab of tabs) {
      const own = tab.hash === "#" + panel.id;
      tab.setAttribute("aria-selected", String(own));
      tab.tabIndex = own ? 0 : -1;
      if (own) {
        const left = tab.offsetLeft - list.offsetLeft, right = left + tab.offsetWidth;
        if (left < list.scrollLeft) list.scrollLeft = left - 24;
        else if (right > list.scrollLeft + list.clientWidth) list.scrollLeft = right - list.clientWidth + 24;
      }
    }
    drawVisible();
  }
  function follow() {
    let target = null;
    try { target = document.getElementById(decodeURIComponent(location.hash.slice(1))); } catch { /* no such place */ }
    const panel = target && target.closest(".panel");
    for (let fold = target && target.closest(".fold"); fold; fold = fold.parentElement.closest(".fold")) fold.open = true;
    if (panel) select(panel);
    if (panel && panel !== target) target.scrollIntoView();
    return Boolean(panel);
  }
  function go(tab) {
    if (location.hash !== tab.hash) history.pushState(null, "", tab.hash);
    select(document.getElementById(tab.hash.slice(1)));
    // The new section starts at its beginning, below the strip of tabs.
    const top = list.closest("nav").offsetTop;
    if (scrollY > top) scrollTo(0, top);
  }
  if (list) {
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", "Sections");
    for (const tab of tabs) {
      const panel = document.getElementById(tab.hash.slice(1));
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", panel.id);
      tab.parentElement.setAttribute("role", "presentation");
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", tab.id);
      tab.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        go(tab);
      });
      tab.addEventListener("keydown", (event) => {
        const at = tabs.indexOf(tab), last = tabs.length - 1;
        const next = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last }[event.key];
        if (event.key === " ") { event.preventDefault(); go(tab); }
        if (next === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        tabs[next].focus({ preventScroll: true });
        go(tabs[next]);
      });
    }
    addEventListener("hashchange", follow);
    addEventListener("popstate", () => { if (!location.hash) select(panels[0]); });
  }

  // --- Folds: what is in them is drawn when they open.
  for (const fold of document.querySelectorAll(".fold")) fold.addEventListener("toggle", drawVisible);

  // --- Words: Escape puts an explanation away, until the word is left.
  for (const word of document.querySelectorAll(".word")) {
    const open = () => delete word.dataset.closed;
    word.addEventListener("keydown", (event) => { if (event.key === "Escape") word.dataset.closed = ""; });
    word.addEventListener("click", () => { open(); word.focus(); });
    word.addEventListener("blur", open);
  }

  // --- What can be saved.
  function download(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    tell(`Saved ${name}`);
  }
  async function save(form, id, name) {
    if (form === "csv") return download(new Blob([stored.csv[id]], { type: "text/csv;charset=utf-8" }), `${name}.csv`);
    const plot = document.querySelector(`[data-figure="${id}"]`);
    const size = { width: Math.max(plot.clientWidth, 640), height: plot.clientHeight };
    const address = await Plotly.toImage(plot, { format: form, scale: form === "png" ? 2 : 1, ...size });
    const comma = address.indexOf(",");
    const body = address.slice(0, comma).endsWith(";base64")
      ? Uint8Array.from(atob(address.slice(comma + 1)), (letter) => letter.charCodeAt(0))
      : decodeURIComponent(address.slice(comma + 1));
    return download(new Blob([body], { type: form === "svg" ? "image/svg+xml" : "image/png" }), `${plot.dataset.name}.${form}`);
  }
  async function copy(id) {
    const text = document.getElementById(id).textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const box = Object.assign(document.createElement("textarea"), { value: text, className: "hidden" });
      document.body.append(box);
      box.select();
      document.execCommand("copy");
      box.remove();
    }
    tell("Copied");
  }
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest("button");
    if (!pressed) return;
    if (pressed.dataset.save) save(pressed.dataset.save, pressed.dataset.of, pressed.dataset.name);
    if (pressed.dataset.copy) copy(pressed.dataset.copy);
  });

  // --- Begin.
  for (const waiting of document.querySelectorAll(".tools[hidden], button[hidden]")) waiting.hidden = false;
  // Not <noscript>: scripts may also be blocked for this page alone.
  for (const note of document.querySelectorAll(".unscripted")) note.remove();
  button.addEventListener("click", () => {
    const next = wanted() === "dark" ? "light" : "dark";
    chosen = next === (system.matches ? "dark" : "light") ? null : next; // back with the system
    paint();
  });
  system.addEventListener("change", paint);
  const folds = [...document.querySelectorAll(".fold")];
  const print = (state) => {
    printed = state;
    for (const fold of folds) {
      if (state) { fold.dataset.open = String(fold.open); fold.open = true; } else if (fold.dataset.open) fold.open = fold.dataset.open === "true";
    }
    paint();
    drawVisible();
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  printer.addEventListener("change", () => { paint(); drawVisible(); });
  paint();
  if (!follow()) { if (list) select(panels[0]); else drawVisible(); }
})();
