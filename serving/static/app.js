// Small help for the pages: the list follows the event stream, and the what-if
// form asks the server as it is changed. Without it the pages still work.
"use strict";

(function list() {
  const filter = document.getElementById("filter");
  if (!filter) return;
  const live = document.getElementById("live");
  filter.querySelector("button[type=submit]").hidden = true;
  live.hidden = false;

  let busy = false, again = false, paused = false, typing = 0;

  function address(path) {
    const query = new URLSearchParams(location.search);
    const text = query.toString();
    return text ? path + "?" + text : path;
  }

  // Somebody who is marking text would lose the mark.
  function marking() {
    const s = getSelection();
    return s && !s.isCollapsed && document.getElementById("list").contains(s.anchorNode);
  }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(address("/fragment/customers"));
      if (answer.ok && !marking()) show(await answer.text());
    } catch (e) {
      // The server is away; the event stream reconnects and brings us back.
    }
    busy = false;
    if (again) { again = false; refresh(); }
  }

  function show(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    const at = document.activeElement && document.activeElement.getAttribute("href");
    for (const id of ["summary", "list"]) {
      const section = fresh.getElementById(id);
      if (section) document.getElementById(id).replaceWith(section);
    }
    if (at && document.activeElement === document.body) {
      const link = document.querySelector('#list a[href="' + CSS.escape(at) + '"], #summary a[href="' + CSS.escape(at) + '"]');
      if (link) link.focus({ preventScroll: true });
    }
  }

  function choose() {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(filter)) {
      if (value && !(name === "sort" && value === "probability")) query.set(name, value);
    }
    const text = query.toString();
    history.replaceState(null, "", text ? "/?" + text : "/");
    refresh();
  }

  filter.addEventListener("change", choose);
  filter.addEventListener("input", (e) => {
    if (e.target.type !== "search") return;
    clearTimeout(typing);
    typing = setTimeout(choose, 200);
  });
  filter.addEventListener("submit", (e) => { e.preventDefault(); choose(); });

  let waiting = false;
  const stream = new EventSource("/events");
  stream.onmessage = () => {
    if (paused || document.hidden) { waiting = true; return; }
    refresh();
  };
  stream.onerror = () => label("Reconnecting");
  stream.onopen = () => { label(paused ? "Paused" : "Live"); if (!paused) refresh(); };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && waiting && !paused) { waiting = false; refresh(); }
  });
  live.addEventListener("click", () => {
    paused = !paused;
    live.setAttribute("aria-pressed", String(!paused));
    label(paused ? "Paused" : "Live");
    if (!paused) refresh();
  });
  function label(text) { live.querySelector(".label").textContent = text; }
})();

(function whatIf() {
  const form = document.getElementById("whatif");
  if (!form) return;
  const table = document.getElementById("contributions");
  const scale = Number(table.dataset.scale);
  const byId = (id) => document.getElementById(id);
  const old = { then: byId("then").textContent, risk: byId("then-risk").textContent, riskClass: byId("then-risk").className };
  let latest = 0, timer = 0;

  const percent = (p) => (100 * p).toFixed(1) + "\u202f%";
  const signed = (x, digits) => {
    const text = Math.abs(x).toFixed(digits);
    return (Number(text) === 0 ? "" : x < 0 ? "\u2212" : "+") + text;
  };

  function initial(input) {
    if (input.tagName !== "SELECT") return input.defaultValue;
    const chosen = Array.from(input.options).find((o) => o.defaultSelected);
    return chosen ? chosen.value : "";
  }

  function changes() {
    const result = {};
    for (const input of form.querySelectorAll("[data-name]")) {
      const changed = input.value !== initial(input);
      input.closest(".field").classList.toggle("changed", changed);
      if (!changed) continue;
      result[input.dataset.name] = input.value === "" ? null : "numeric" in input.dataset ? Number(input.value) : input.value;
    }
    return result;
  }

  function bars(side) {
    table.classList.toggle("changed-weights", side !== null);
    for (const row of table.querySelectorAll("tr[data-feature]")) {
      for (const cell of row.querySelectorAll("td[data-kind]")) {
        const after = cell.querySelector(".after"), number = cell.querySelector(".new");
        const weights = side && (cell.dataset.kind === "lime" ? side.explanation : side.shap);
        const w = weights ? weights[row.dataset.feature] : 0;
        const width = Math.min(Math.abs(w) / scale, 1) * 100;
        after.setAttribute("width", width.toFixed(1));
        after.setAttribute("x", (w < 0 ? 100 - width : 100).toFixed(1));
        number.textContent = weights ? signed(w, 3) : "";
      }
    }
  }

  function fail(text) {
    byId("whatif-error").textContent = text;
    byId("whatif-error").hidden = !text;
  }

  async function ask() {
    const asked = ++latest, wanted = changes();
    if (Object.keys(wanted).length === 0) {
      fail("");
      bars(null);
      byId("then").textContent = old.then;
      byId("then-risk").textContent = old.risk;
      byId("then-risk").className = old.riskClass;
      byId("delta").textContent = "unchanged";
      return;
    }
    try {
      const answer = await fetch("/v1/what-if", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ customer_id: form.dataset.customer, changes: wanted }),
      });
      const body = await answer.json();
      if (asked !== latest) return; // a later question is under way
      if (!answer.ok) { fail(body.detail || body.title); return; }
      fail("");
      byId("now").textContent = percent(body.before.probability);
      byId("then").textContent = percent(body.after.probability);
      byId("then-risk").textContent = body.after.risk[0] + body.after.risk.slice(1).toLowerCase();
      byId("then-risk").className = "badge " + body.after.risk.toLowerCase();
      byId("delta").textContent = signed(100 * body.difference, 1) + " points";
      bars(body.after);
    } catch (e) {
      if (asked === latest) fail("The server did not answer. Try again in a moment.");
    }
  }

  function soon() { clearTimeout(timer); timer = setTimeout(ask, 120); }
  form.addEventListener("input", soon);
  form.addEventListener("submit", (e) => { e.preventDefault(); ask(); });
  form.addEventListener("reset", () => setTimeout(ask, 0));
  for (const button of form.querySelectorAll("[data-try]")) {
    button.addEventListener("click", () => {
      const input = Array.from(form.querySelectorAll("[data-name]")).find((i) => i.dataset.name === button.dataset.try);
      if (!input) return;
      const details = input.closest("details");
      if (details) details.open = true;
      input.value = button.dataset.value;
      ask();
    });
  }
})();
