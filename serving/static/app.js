// Small help for the pages: the list follows the event stream, and the what-if
// form asks the server as it is changed. Without it the pages still work.
"use strict";

// follow keeps parts of a page as the server has them: again and again the
// fragment at path() is asked for, and the parts of these ids take the place of
// those in the page.
function follow(path, ids) {
  const live = document.getElementById("live");
  live.hidden = false;
  let busy = false, again = false, paused = false, waiting = false;

  // Somebody who is marking text would lose the mark.
  function marking() {
    const s = getSelection();
    return s && !s.isCollapsed && ids.some((id) => document.getElementById(id).contains(s.anchorNode));
  }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(path());
      if (answer.ok && !marking()) show(await answer.text());
    } catch (e) {
      // The server is away; the event stream reconnects and brings us back.
    }
    busy = false;
    if (again) { again = false; refresh(); }
  }

  function show(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    const active = document.activeElement;
    const at = active && active.getAttribute("href");
    const inside = active && active.tagName === "SUMMARY" && active.parentElement.id;
    const open = Array.from(document.querySelectorAll("details[id][open]"), (d) => d.id);
    for (const id of ids) {
      const section = fresh.getElementById(id);
      if (!section) continue;
      for (const d of section.querySelectorAll("details[id]")) d.open = open.includes(d.id);
      // A reader is told of what is new, not of everything once more.
      const said = document.querySelector("#" + id + " [role=status]"), says = section.querySelector("[role=status]");
      if (said && says && said.innerHTML === says.innerHTML && said.className === says.className) says.replaceWith(said);
      document.getElementById(id).replaceWith(section);
    }
    if (document.activeElement !== document.body) return;
    const scope = ids.map((id) => "#" + id);
    const link = at && document.querySelector(scope.map((s) => s + ' a[href="' + CSS.escape(at) + '"]').join(", "));
    const summary = inside && document.querySelector("#" + CSS.escape(inside) + " > summary");
    if (link || summary) (link || summary).focus({ preventScroll: true });
  }

  function label(text) { live.querySelector(".label").textContent = text; }

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
  return refresh;
}

(function list() {
  const filter = document.getElementById("filter");
  if (!filter) return;
  filter.querySelector("button[type=submit]").hidden = true;
  let typing = 0;

  function address() {
    const text = new URLSearchParams(location.search).toString();
    return text ? "/fragment/customers?" + text : "/fragment/customers";
  }
  const refresh = follow(address, ["summary", "list"]);

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
})();

(function model() {
  if (!document.getElementById("quality")) return;
  follow(() => "/fragment/model" + location.search, ["lead", "quality", "happened", "versions"]);
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
