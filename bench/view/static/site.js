// Tables, filters and comparisons of the pages. Data come from scripts beside it; everything that users named is escaped.
"use strict";
const bench = (() => {
  const LETTERS = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  const escape = (value) => String(value ?? "").replace(/[&<>"']/g, (letter) => LETTERS[letter]);
  const isTie = (value) => Math.abs((4 * value) % 2) === 1;  // x.25 and x.75: to the even digit, as in other tables
  const toEven = (value) => (isTie(value) ? Math.round(5 * value) / 5 : Number(value)).toFixed(1);
  const percent = (value) => (value === null || value === undefined ? "–" : toEven(value));
  const text = (value, type) => (type === "display" ? escape(value) : value ?? "");
  const number = (value, type) => (type === "display" ? percent(value) : value ?? -1);
  const plain = { className: "dt-right", render: (value, type) => (type === "display" ? escape(value ?? "–") : value ?? -1) };
  const rate = { className: "dt-right", render: number };
  const $ = (id) => document.getElementById(id);

  async function makeTable(id, options) {
    const { default: Table } = await import(window.tablesModule);
    const shared = { pageLength: 50, deferRender: true, autoWidth: false, order: [], layout: { topStart: "pageLength", topEnd: "search" } };
    const table = new Table("#" + id, { ...shared, ...options });
    document.body.dataset.ready = id;
    return table;
  }

  function showCells() {
    const { columns, rows } = window.benchCells;
    const at = Object.fromEntries(columns.map((name, place) => [name, place]));
    const chosen = new Set();
    const pick = (row, type) => type === "display"
      ? `<input type="checkbox" value="${escape(row[at.key])}" aria-label="Compare ${escape(row[at.defense])}, ${escape(row[at.attack])}, ${escape(row[at.gradient])}"${chosen.has(row[at.key]) ? " checked" : ""}>` : "";
    const link = (value, type, row) => type === "display"
      ? `<a href="cell/${encodeURIComponent(row[at.key])}.html">${escape(value)}</a>` : value;
    const interval = (value, type, row) => type !== "display" ? value ?? -1
      : value === null ? "" : `[${percent(row[at.low])}, ${percent(row[at.high])}]`;
    const mark = (value, type, row) => type !== "display" ? value
      : `<span class="${escape(value)}" title="${escape(row[at.doubts])}">${escape(value)}</span>`;
    const shown = [
      ["Defense", "defense", { render: link }, "name"], ["Robust", "robust", rate], ["95 % interval", "low", { render: interval }, "wide keep"],
      ["Attack", "attack"], ["Gradient", "gradient"], ["Clean", "clean", rate, "wide"], ["Null", "null", rate, "wide"],
      ["Published", "published", rate, "wide"], ["Verdict", "verdict", {}, "wide"], ["Gates", "gates", { render: mark }],
      ["Tier", "tier", {}, "wide"], ["Data set", "dataset", {}, "wide"], ["Classifier", "classifier", {}, "wide"],
      ["Threat", "threat", {}, "wide"], ["Images", "images", plain, "wide"], ["Grid", "grid", {}, "wide"], ["Key", "key", {}, "wide"],
    ];
    const made = [{ title: "<span aria-label='Compare'>✓</span>", data: null, orderable: false, searchable: false, render: (row, type) => pick(row, type) },
      ...shown.map(([title, name, options, className]) => ({ title, data: at[name], render: text, ...options, className: [className, options?.className].filter(Boolean).join(" ") }))];
    makeTable("cells", { data: rows, columns: made }).then((table) => {
      $("chosen").textContent = "Looking for results that contradict each other …";
      load("data/marks.js").then(() => {
        for (const row of rows) {
          const reason = window.benchMarks[row[at.key]];
          if (!reason) continue;
          row[at.gates] = "doubt";
          row[at.doubts] = [row[at.doubts], reason].filter(Boolean).join("\n");
        }
        table.rows().invalidate().draw(false);
        $("chosen").textContent = "Tick two cells to compare them.";
        document.body.dataset.marked = "yes";
      }, (error) => { $("chosen").textContent = error.message; });
      for (const name of ["grid", "dataset", "defense", "attack", "gradient", "tier"]) {
        const place = 1 + shown.findIndex((entry) => entry[1] === name);
        addFilter($("filters"), shown[place - 1][0], rows.map((row) => row[at[name]]), (value) =>
          table.column(place).search(value === "" ? "" : (cell) => cell === value).draw());
      }
      $("cells").addEventListener("change", (event) => {
        if (event.target.type !== "checkbox") return;
        event.target.checked ? chosen.add(event.target.value) : chosen.delete(event.target.value);
        $("compare").disabled = chosen.size !== 2;
        $("chosen").textContent = chosen.size === 2 ? "" : `${chosen.size} of two cells ticked.`;
      });
      $("compare").addEventListener("click", () => {
        const [a, b] = chosen;
        location.href = `compare.html?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}`;
      });
    });
  }

  function addFilter(form, title, values, apply) {
    const names = [...new Set(values.map((value) => value ?? ""))].filter((name) => name !== "").sort();
    const label = document.createElement("label");
    const select = document.createElement("select");
    select.append(new Option("all", ""), ...names.map((name) => new Option(name, name)));
    select.name = title;
    select.addEventListener("change", () => apply(select.value));
    label.append(title, select);
    form.append(label);
  }

  const TITLES = { index: "Index", label: "Label", draws: "Draws", clean: "Clean right", robust: "Attacked right", null: "Null right",
    predicted: "Most votes", votes: "Votes", distance: "Distance", broken_by: "Broken by", first: "First success" };

  function showImages(key) {
    const { columns, rows } = window.benchImages[key];
    const words = new Set(["votes", "broken_by", "first"]);
    const made = columns.map((name) => ({ title: TITLES[name] ?? name, ...(words.has(name) ? { render: text } : plain) }));
    makeTable("images", { data: rows, columns: made, pageLength: 25 });
  }

  function showChart(figure) {
    Plotly.newPlot("chart", figure.data, figure.layout, { responsive: true, displaylogo: false });
  }

  function showLiterature() {
    // [heading, place in the data, class, render]
    const measured = (cells, type) => type !== "display" ? cells.length
      : cells.map(([key, robust, verdict, tier, gates]) => `<a href="cell/${encodeURIComponent(key)}.html">${percent(robust)}</a> (${[tier, verdict, gates === "doubt" ? "in doubt" : ""].filter(Boolean).map(escape).join(", ")})`).join("<br>");
    const made = [
      ["Source", 0, "name", text], ["Defense", 5, "", text], ["Robust", 11, "dt-right", number], ["Measured here", 15, "", measured],
      ["Attack", 6, "", text], ["Gradient", 7, "", text], ["Attacker differentiates", 14, "", text], ["Threat", 8, "wide", text], ["Data set", 3, "wide", text],
      ["Classifier", 4, "wide", text], ["Clean", 10, "wide dt-right", number], ["Images", 9, "wide dt-right", text], ["Year", 1, "wide", text],
      ["Table", 2, "wide", text], ["Read from", 12, "wide", text], ["Notes", 13, "wide name", text],
    ].map(([title, data, className, render]) => ({ title, data, className, render }));
    makeTable("literature", { data: window.benchLiterature, columns: made, pageLength: 25, order: [[3, "desc"]] });
  }

  function load(source) {
    return new Promise((done, fail) => {
      const script = document.createElement("script");
      script.src = source;
      script.onload = done;
      script.onerror = () => fail(new Error(`${source} is not in this site.`));
      document.head.append(script);
    });
  }

  async function loadImages(key) {
    const known = window.benchCells.rows.map((row) => row[0]).filter((name) => name.startsWith(key));
    if (!key || known.length !== 1) throw new Error(`${known.length} cells have a key that begins with "${key}". Give more of it, or another.`);
    await load(`data/${encodeURIComponent(known[0])}.js`);
    return window.benchImages[known[0]];
  }

  function showComparison() {
    const asked = new URLSearchParams(location.search);
    const { rows } = window.benchCells;
    $("keys").append(...rows.map((row) => Object.assign(document.createElement("option"), { value: row[0], label: `${row[1]}, ${row[2]}, ${row[3]}` })));
    for (const name of ["a", "b"]) $("pair").elements[name].value = asked.get(name) ?? "";
    if (!asked.get("a") || !asked.get("b")) return;
    Promise.all([loadImages(asked.get("a")), loadImages(asked.get("b"))]).then(([a, b]) => compare(a, b)).catch((error) => {
      $("outcome").textContent = error.message;
    });
  }

  function compare(a, b) {
    const problem = differ(a, b);
    if (problem) { $("outcome").textContent = problem; return; }
    const at = Object.fromEntries(a.columns.map((name, place) => [name, place]));
    const theirs = new Map(b.rows.map((row) => [row[at.index], row]));
    const pairs = a.rows.filter((row) => theirs.has(row[at.index])).map((row) => [row, theirs.get(row[at.index])]);
    if (!pairs.length) { $("outcome").textContent = "The two cells have no image in common."; return; }
    const share = (row) => row[at.robust] / row[at.draws];
    const voted = (row) => row[at.votes].startsWith(row[at.label] + "×") && !row[at.votes].startsWith("tie");
    const differences = pairs.map(([x, y]) => share(x) - share(y));
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const [low, high] = interval(differences, mean(differences));
    const right = (side) => mean(pairs.map((pair) => share(pair[side])));
    const onlyA = pairs.filter(([x, y]) => voted(x) && !voted(y)).length;
    const onlyB = pairs.filter(([x, y]) => voted(y) && !voted(x)).length;
    const p = mcnemar(onlyA, onlyB);
    const sure = (low > 0 || high < 0) && p < 0.05;
    const [better, worse] = mean(differences) > 0 ? ["A", "B"] : ["B", "A"];
    const doubted = [["A", a], ["B", b]].filter(([, cell]) => cell.doubts.length).map(([name]) => name);
    const which = doubted.length > 1 ? "both are" : `${doubted[0]} is`;
    const established = a.defense === b.defense && a.attacker !== b.attacker ? `${worse}'s attack finds more than ${better}'s.`
      : doubted.length ? `${better} has the higher number, but ${which} in doubt: no conclusion.`
        : `${better} is more robust than ${worse} on these images.`;
    const lines = [
      `A: ${a.title} (${a.key})`, `B: ${b.title} (${b.key})`,
      `Robust on the ${pairs.length} images that both saw: A ${percent(100 * right(0))} %, B ${percent(100 * right(1))} %.`,
      `Difference A − B: ${percent(100 * mean(differences))} points, 95 % interval [${percent(100 * low)}, ${percent(100 * high)}] (paired, bootstrap in this page; bench compare ${a.key} ${b.key} may differ by a few tenths).`,
      `By vote, A alone is right on ${onlyA} images, B alone on ${onlyB}: McNemar p = ${p.toPrecision(3)}.`,
      a.threat.noise !== b.threat.noise ? "No conclusion: where the noise is known a number is of one recorded draw of each image, a fixed function; with fresh noise it is of the defense." : sure ? established : "No difference is established.",
      ...[a, b].flatMap((cell, place) => cell.doubts.map((reason) => `${"AB"[place]} is in doubt: ${reason}`)),
      ...Object.keys(a.threat).filter((name) => String(a.threat[name]) !== String(b.threat[name])).map((name) => `Careful, not the same ${name}: A ${a.threat[name]}, B ${b.threat[name]}.`),
    ];
    $("outcome").replaceChildren(...lines.map((line) => Object.assign(document.createElement("p"), { textContent: line })));
    const columns = ["Index", "Label", "A right", "B right", "Difference", "A votes", "B votes"].map((title, place) => ({ title, ...(place > 4 ? { render: text } : plain) }));
    const data = pairs.map(([x, y], place) => [x[at.index], x[at.label], `${x[at.robust]}/${x[at.draws]}`, `${y[at.robust]}/${y[at.draws]}`, Number(differences[place].toFixed(2)), x[at.votes], y[at.votes]]);
    makeTable("images", { data, columns, pageLength: 25, order: [[4, "desc"]] });
  }

  function differ(a, b) {
    if (a.threat.dataset !== b.threat.dataset) return `Expected two cells of one data set, got ${a.threat.dataset} and ${b.threat.dataset}.`;
    if (a.pictures && b.pictures && a.pictures !== b.pictures) return "The two ran on copies of the data set that differ in order, part or resizing: they cannot be paired.";
    if (String(a.drawn) === String(b.drawn) && a.used && b.used && a.used !== b.used) return "The two ran on other pixels of the same pictures: they cannot be paired.";
    return "";
  }

  function interval(values, mean) {
    let state = 12345;
    const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 4294967296;
    const n = values.length, times = Math.max(400, Math.min(10000, Math.floor(4e6 / n)));
    const means = Float64Array.from({ length: times }, () => {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += values[Math.floor(random() * n)];
      return sum / n;
    }).sort();
    const least = 3.8414588 / (n + 3.8414588);
    return [Math.max(-1, Math.min(means[Math.floor(0.025 * times)], mean - least)), Math.min(1, Math.max(means[Math.ceil(0.975 * times) - 1], mean + least))];
  }

  function mcnemar(a, b) {
    let term = Math.pow(0.5, a + b), tail = 0;
    for (let i = 0; i <= Math.min(a, b); i++) { tail += term; term *= (a + b - i) / (i + 1); }
    return a + b ? Math.min(1, 2 * tail) : 1;
  }

  return { showCells, showImages, showChart, showLiterature, showComparison };
})();
