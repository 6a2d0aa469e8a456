// What /local/events tells, as tables. Names, tags and parameters come from callers: they only ever become text.

const POD_TAGS = ["caa-namespace", "caa-pod", "caa-sandbox"];
const NEWS = 3; // as many sentences a change are read out
const RETRY = 2000; // ms

const byId = (id) => document.getElementById(id);

function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== ""));
  return node;
}

const main = (text) => el("span", { class: "main" }, text);
const small = (text) => (text ? el("small", {}, text) : "");
const code = (text) => (text ? el("code", {}, text) : "");
const brief = (text) => (text ? el("span", { class: "brief", title: text }, text) : "");
const tag = ([key, value]) => el("span", { class: "tag" }, value ? `${key}=${value}` : key);

// Time, by the cloud's clock: as it was when the last state came, and what has passed since.

let told = { now: 0, at: 0 };
const now = () => told.now + (performance.now() - told.at) / 1000;

function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

function since(time) {
  return el("small", { "data-since": time }, duration(now() - time));
}

function tick() {
  for (const node of document.querySelectorAll("[data-since]"))
    node.textContent = duration(now() - node.dataset.since);
}

function clockTime(seconds) {
  const time = new Date(seconds * 1000);
  return el("time", { datetime: time.toISOString() }, time.toLocaleTimeString("en-GB"));
}

// Tables: each thing has a <tbody> of its own, so that what did not change stays as it is, focus and all.

function show(id, things, { key, rows, count = String(things.length) }) {
  const section = byId(id);
  const table = section.querySelector("table");
  const empty = section.querySelector(".empty");
  section.querySelector(".count").textContent = count;
  if (empty) {
    empty.hidden = things.length > 0;
    table.hidden = !things.length;
  } else section.hidden = !things.length;
  const labels = Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent);
  const known = new Map(Array.from(table.tBodies, (body) => [body.dataset.key, body]));
  let previous = table.tHead;
  things.forEach((thing, index) => {
    const name = String(key ? key(thing) : index);
    const old = known.get(name);
    known.delete(name);
    const text = JSON.stringify(thing);
    let body = old;
    if (old?.text !== text) {
      body = el("tbody", { "data-key": name }, ...rows(thing, labels));
      body.text = text;
      if (!old) body.classList.toggle("new", rendered);
      else {
        const focused = old.contains(document.activeElement);
        old.replaceWith(body);
        if (focused) body.querySelector("button")?.focus();
      }
    }
    if (previous.nextElementSibling !== body) previous.after(body);
    previous = body;
  });
  for (const gone of known.values()) gone.remove();
}

// The roles say what a narrow window's style would otherwise take from the table.
function row(labels, cells, attributes = {}) {
  return el(
    "tr",
    { role: "row", ...attributes },
    ...cells.map((content, index) => {
      const numeric = typeof content === "number";
      const attributes = { role: "cell", "data-label": labels[index], ...(numeric && { class: "number" }) };
      return el("td", attributes, ...[content].flat().map((each) => (each instanceof Node ? each : String(each ?? ""))));
    }),
  );
}

function status(text, ...more) {
  return [el("span", { class: "status", "data-status": text }, text), ...more];
}

let rendered = false;

const views = {
  instances: (state) => ({
    things: [...state.instances].reverse(),
    key: (instance) => instance.id,
    count: tally(state.instances.map((instance) => instance.status)),
    rows: (instance, labels) => [
      row(labels, [
        [main(instance.name || "no name"), code(instance.id)],
        status(instance.status, since(instance.status_since)),
        [main(instance.type), small([instance.zone, instance.confidential && "TDX"].filter(Boolean).join(", "))],
        [code(instance.address), instance.public_address ? small(`public ${instance.public_address}`) : ""],
        pod(instance.tags),
        Object.entries(instance.tags).filter(([key]) => !POD_TAGS.includes(key)).map(tag),
      ]),
    ],
  }),
  calls: (state) => ({
    things: state.calls.filter((call) => !byId("only-failed").checked || failed(call)).reverse(),
    key: (call) => call.request_id,
    count: tally(state.calls.map((call) => (failed(call) ? "failed" : call.outcome ? "ok" : "under way"))),
    rows: callRows,
  }),
  faults: (state) => ({
    things: state.faults,
    rows: (fault, labels) => [row(labels, [main(fault.action === "*" ? "any" : fault.action), effect(fault)])],
  }),
  limits: (state) => ({
    things: state.limits,
    key: (limit) => limit.action,
    rows: (limit, labels) => [
      row(labels, [main(limit.action === "*" ? "each other one" : limit.action), `${limit.calls} in ${limit.seconds} s`]),
    ],
  }),
  enis: (state) => ({
    things: state.enis.map((eni) => ({ ...eni, at: nameOf(eni.instance, state) })).reverse(),
    key: (eni) => eni.id,
    rows: (eni, labels) => [
      row(labels, [
        [main(eni.name || (eni.primary ? "primary" : "no name")), code(eni.id)],
        status(eni.status),
        [code(eni.address), small(eni.at)],
      ]),
    ],
  }),
  eips: (state) => ({
    things: state.eips.map((eip) => ({ ...eip, at: nameOf(eip.instance, state) })).reverse(),
    key: (eip) => eip.id,
    rows: (eip, labels) => [
      row(labels, [[main(eip.address), code(eip.id)], status(eip.status), small(eip.at)]),
    ],
  }),
  vswitches: (state) => ({
    things: state.vswitches,
    key: (vswitch) => vswitch.id,
    rows: (vswitch, labels) => [
      row(labels, [[main(vswitch.cidr), code(vswitch.id)], vswitch.zone, vswitch.free]),
    ],
  }),
  stock: (state) => ({
    things: state.stock,
    key: (each) => `${each.zone} ${each.type}`,
    rows: (each, labels) => [row(labels, [main(each.type), each.zone, each.stock])],
  }),
  images: (state) => ({
    things: state.images,
    key: (image) => image.id,
    rows: (image, labels) => [
      row(labels, [
        [image.name !== image.id ? main(image.name) : "", code(image.id)],
        status(image.status, image.progress < 100 ? small(`${image.progress} %`) : ""),
        image.size_gib,
      ]),
    ],
  }),
};

// Of an instance or interface: its name, if it has one.
function nameOf(id, state) {
  return [...state.instances, ...state.enis].find((each) => each.id === id)?.name || id || "";
}

function tally(words) {
  const counts = new Map();
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
  return Array.from(counts, ([word, count]) => `${count} ${word}`).join(", ");
}

function pod(tags) {
  const [namespace, name, sandbox] = POD_TAGS.map((key) => tags[key]);
  if (!name) return "";
  return [main(namespace ? `${namespace}/${name}` : name), sandbox ? code(sandbox.slice(0, 12)) : ""];
}

function effect(fault) {
  const number = fault.share ? `${Math.round(fault.share * 100)} % of them` : fault.nth ? `from number ${fault.nth} on` : "";
  return [
    fault.drop ? `no answer, ${fault.drop} the effect` : "",
    !fault.drop && fault.code ? `${fault.code}, ${fault.when} the effect` : "",
    fault.delay ? `${fault.delay} s late` : "",
    number,
    fault.per ? `each ${fault.per} counted alone` : "",
    fault.times > 1 ? `${fault.times} times` : "",
    ...Object.entries(fault.where).map(([key, value]) => `${key} is ${value}`),
  ]
    .filter(Boolean)
    .join("; ");
}

const failed = (call) => call.outcome !== "" && call.outcome !== "ok";
const unfolded = new Set();

function callRows(call, labels) {
  const id = `call-${call.request_id}`;
  const button = el("button", { type: "button", class: "unfold", "aria-controls": id }, call.action || "no action");
  const more = el("tr", { role: "row", id, class: "more" }, el("td", { role: "cell", colspan: labels.length }, details(call)));
  const fold = (open) => {
    button.setAttribute("aria-expanded", open);
    more.hidden = !open;
    if (open) unfolded.add(call.request_id);
    else unfolded.delete(call.request_id);
  };
  fold(unfolded.has(call.request_id));
  button.addEventListener("click", () => fold(more.hidden));
  const first = row(
    labels,
    [
      clockTime(call.began_at),
      button,
      el("span", { class: "outcome" }, call.outcome || "under way"),
      brief(call.identity),
      call.signature === call.outcome ? el("span", { class: "outcome" }, call.signature && "refused") : brief(call.signature),
      call.status || "",
      call.outcome ? Math.round(call.seconds * 1000) : "",
      code(call.request_id.slice(0, 8)),
    ],
    { class: failed(call) ? "failed" : call.outcome },
  );
  return [first, more];
}

function details(call) {
  const facts = {
    "Request id": call.request_id,
    Began: new Date(call.began_at * 1000).toISOString(),
    Version: call.version,
    "HTTP status": call.status,
    Took: call.outcome && `${(call.seconds * 1000).toFixed(1)} ms`,
    Caller: call.identity,
    Signature: call.signature,
    Connection: call.connection,
  };
  const list = el("dl", {});
  for (const [name, value] of [...Object.entries(facts), ...Object.entries(call.parameters)])
    if (value) list.append(el("dt", { class: name in facts ? "fact" : "parameter" }, name), el("dd", {}, value));
  return list;
}

function news(before, after) {
  const old = new Map(before.instances.map((instance) => [instance.id, instance]));
  const sentences = [];
  for (const instance of after.instances) {
    if (old.get(instance.id)?.status !== instance.status)
      sentences.push(`${instance.name || instance.id} is ${instance.status}`);
    old.delete(instance.id);
  }
  for (const instance of old.values()) sentences.push(`${instance.name || instance.id} is gone`);
  const ended = new Set(before.calls.filter((call) => call.outcome).map((call) => call.request_id));
  for (const call of after.calls)
    if (failed(call) && !ended.has(call.request_id)) sentences.push(`${call.action || "a call"} failed: ${call.outcome}`);
  return sentences.slice(-NEWS).join(". ");
}

let state;

function render() {
  for (const [id, view] of Object.entries(views)) {
    const { things, ...how } = view(state);
    show(id, things, how);
  }
  byId("disarm").disabled = !state.faults.length;
  byId("where").textContent = `${state.region}, account ${state.account}, role ${state.role} with the ${state.policy} policy`;
  rendered = true;
}

function connect() {
  const link = byId("link");
  const events = new EventSource("/local/events");
  events.onmessage = (event) => {
    const before = state;
    state = JSON.parse(event.data);
    told = { now: state.now, at: performance.now() };
    render();
    if (before) byId("news").textContent = news(before, state) || byId("news").textContent;
    link.textContent = "live";
    link.className = "live";
  };
  events.onerror = () => {
    link.textContent = "no connection; trying again";
    link.className = "";
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, RETRY);
  };
}

async function order(method, body) {
  const output = byId("armed");
  try {
    const request = { method, headers: { "Content-Type": "application/json" }, ...(body && { body: JSON.stringify(body) }) };
    const answer = await fetch("/local/fault", request);
    output.textContent = answer.ok ? "" : await answer.text();
  } catch (error) {
    output.textContent = String(error);
  }
}

byId("arm").addEventListener("submit", (event) => {
  event.preventDefault();
  const { action, what, when } = Object.fromEntries(new FormData(event.target));
  order("POST", what === "drop" ? { action, drop: when } : { action, code: what, when });
});
byId("disarm").addEventListener("click", () => order("DELETE"));
byId("only-failed").addEventListener("change", () => state && render());
setInterval(tick, 1000);
for (const table of document.querySelectorAll("table")) table.setAttribute("role", "table");
connect();
