// What the reader does, and what comes of it. The facts are asked of the server that served this page, by relative
// addresses, since its token stands in the page's own.
"use strict";

const by = id => document.getElementById(id);
const tree = by("tree"), detail = by("detail"), query = by("query");
const entries = new WeakMap();  // of a row of the tree: {ref, entry, level, open, next, found}
const CHANGES = new Set(["CREATE", "MKDIR", "MKNOD", "SYMLINK", "LINK", "UNLINK", "RMDIR", "RENAME", "RENAME2"]);
const MOST_REQUESTS = 300;
let lookup = {steps: [], at: 0, ref: null}, paused = false, dirty = new Set(), refreshing = null;

async function ask(what, parameters = {}) {
  const answer = await fetch(`api/${what}?${new URLSearchParams(parameters)}`);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// --- layers

async function showUnion() {
  const union = await ask("union");
  by("name").textContent = union.name;
  document.title = `${union.name} - unionfs explore`;
  const state = union.mounted ? "mounted" : "not mounted";
  by("about").textContent = `${union.layers.length} layers, dialect ${union.dialect}, ${state}`;
  by("shelves").replaceChildren(...union.layers.map(shelf));
  by("live").hidden = !union.mounted;
  if (union.mounted) listen();
}

function shelfOf(layer) {
  return by("shelves").querySelector(`[data-layer="${layer}"]`);
}

async function count() {
  by("efficiency").textContent = "counting …";
  const found = await ask("facts");
  const most = Math.max(...found.layers.map(layer => layer.size));
  for (const layer of found.layers) shelfOf(layer.layer)?.querySelector(".facts").replaceChildren(...facts(layer, most));
  by("efficiency").textContent = `${(100 * found.efficiency).toFixed(1)} % of what the layers take is shown.`;
  by("wasted").replaceChildren(...found.wasted.map(one => {
    const name = make("button", {type: "button"}, one.path);
    name.addEventListener("click", () => choose(one.ref));
    return make("li", {}, badge(one.layer), make("span", {class: "note"}, size(one.size)), name);
  }));
  if (!found.wasted.length) by("wasted").append(make("li", {class: "note"}, "nothing is"));
}

// --- the merged tree

function add(entry, parent, level) {
  const element = row(entry, level);
  entries.set(element, {ref: parent === "" ? entry.ref : `${parent}/${entry.ref}`, entry, level, open: false});
  return element;
}

async function names(ref, level, start = 0) {
  const found = await ask("list", {path: ref, start});
  const rows = found.entries.map(entry => add(entry, ref, level));
  const next = start + rows.length;
  if (next < found.total) {
    const more = make("li", {role: "treeitem", "aria-level": level + 1, "aria-selected": "false", tabindex: -1},
      make("span", {class: "twist"}), make("span", {class: "more"}, `${found.total - next} more names`));
    more.style.setProperty("--level", level);
    entries.set(more, {ref, level, next});
    rows.push(more);
  }
  return rows;
}

async function showTree() {
  const rows = await names("", 0);
  tree.replaceChildren(...rows);
  if (!rows.length) tree.append(make("li", {class: "note"}, "no names"));
  if (tree.firstChild) tree.firstChild.tabIndex = 0;
}

function inside(element) {
  const {level} = entries.get(element), found = [];
  for (let next = element.nextSibling; next && entries.get(next)?.level > level; next = next.nextSibling) found.push(next);
  return found;
}

async function open(element) {
  const one = entries.get(element);
  if (one.next !== undefined) {  // the row that stands for the rest of a long directory
    const rows = await names(one.ref, one.level, one.next);
    element.replaceWith(...rows);
    if (rows.length) select(rows[0]);
  } else if (one.entry.kind === "directory" && !one.open) {
    one.open = true;
    twist(element, true);
    element.after(...await names(one.ref, one.level + 1));
  }
}

function close(element) {
  const one = entries.get(element);
  inside(element).forEach(row => row.remove());
  one.open = false;
  twist(element, false);
}

function twist(element, isOpen) {
  element.setAttribute("aria-expanded", isOpen);
  element.querySelector(".twist").textContent = isOpen ? "▾" : "▸";
}

function select(element) {
  for (const other of tree.querySelectorAll('[tabindex="0"], [aria-selected="true"]')) {
    other.tabIndex = -1;
    other.setAttribute("aria-selected", "false");
  }
  element.tabIndex = 0;
  element.setAttribute("aria-selected", "true");
  element.focus();
}

// Open the directories on the way to a path, and look it up.
async function choose(ref) {
  if (query.value) { query.value = ""; await showTree(); }
  const parts = ref.split("/");
  for (let end = 1; end <= parts.length; end += 1) {
    const wanted = parts.slice(0, end).join("/");
    const element = [...tree.children].find(row => entries.get(row)?.ref === wanted && entries.get(row).entry);
    if (!element) break;
    select(element);
    element.scrollIntoView({block: "nearest"});
    if (end < parts.length) await open(element);
  }
  await show(ref);
}

async function search() {
  if (!query.value) return showTree();
  const found = await ask("search", {q: query.value});
  tree.replaceChildren(...found.found.map(one => {
    const element = add({name: one.path, ref: one.ref, kind: "file", layer: -1, layers: []}, "", 0);
    element.querySelectorAll(".layer").forEach(mark => mark.remove());
    entries.get(element).found = true;
    return element;
  }));
  const words = found.found.length ? found.more ? "there are more: write more of the name" : "" : "no such name is shown";
  if (words) tree.append(make("li", {class: "note"}, words));
  if (found.found.length) tree.firstChild.tabIndex = 0;
}

function activate(element) {
  const one = entries.get(element);
  if (!one) return;
  if (one.next !== undefined) open(element);
  else if (one.found) choose(one.ref);
  else show(one.ref);
}

// --- a lookup

async function show(ref) {
  let found;
  try {
    found = await ask("lookup", {path: ref});
  } catch (failure) {
    detail.replaceChildren(make("p", {class: "answer no"}, failure.message));
    return;
  }
  lookup = {steps: found.steps, at: found.steps.length, ref};
  const list = make("ol", {id: "steps"}, ...found.steps.map(step));
  const gives = found.layer === null ? make("p", {class: "answer no"}, "The union shows no such name.")
    : make("p", {class: "answer"}, "Given by layer ", badge(found.layer), found.target === undefined ? "" : ` → ${found.target}`);
  const next = make("button", {type: "button"}, "Step ", make("kbd", {}, "Space"));
  next.addEventListener("click", stepOn);
  detail.replaceChildren(make("h3", {}, found.path), next, list, gives);
  if (found.attributes) {
    const {mode, size: bytes, uid, gid, mtime} = found.attributes;
    const changed = new Date(mtime * 1000).toLocaleString();
    detail.append(make("p", {class: "mono"}, `${mode}  ${uid}:${gid}  ${size(bytes)}  ${changed}`));
  }
  if (found.blocks) detail.append(...blocks(found.blocks));
  mark();
}

function stepOn() {
  if (!lookup.steps.length) return;
  lookup.at = lookup.at >= lookup.steps.length ? 1 : lookup.at + 1;
  mark();
}

function mark() {
  const isPlaying = lookup.at < lookup.steps.length;
  [...(by("steps")?.children ?? [])].forEach((element, place) => {
    element.classList.toggle("later", place >= lookup.at);
    element.classList.toggle("now", isPlaying && place === lookup.at - 1);
  });
  for (const element of by("shelves").children) element.classList.remove("here");
  if (isPlaying) shelfOf(lookup.steps[lookup.at - 1].layer)?.classList.add("here");
  detail.querySelector(".answer")?.toggleAttribute("hidden", isPlaying);
}

// --- live requests

function listen() {
  const source = new EventSource("api/live");
  source.onmessage = message => {
    const one = JSON.parse(message.data);
    const layer = shelfOf(one.layer ?? one.whiteout);
    if (layer) {
      layer.classList.add("asked");
      setTimeout(() => layer.classList.remove("asked"), 250);
    }
    if (one.copied || (CHANGES.has(one.op) && !one.errno)) changed(one);
    if (paused) return;
    by("requests").prepend(...request(one));
    while (by("requests").children.length > MOST_REQUESTS) by("requests").lastChild.remove();
  };
  source.addEventListener("end", () => {
    source.close();
    by("about").textContent += "; unmounted meanwhile";
  });
}

// What the union shows has changed: the open directories are read again, soon, however much changes at once.
function changed(one) {
  for (const path of [one.path, one.to, ...(one.copied ?? []).map(copy => copy.path)]) {
    if (typeof path === "string") dirty.add(path.split("/").slice(0, -1).join("/"));
  }
  refreshing ??= setTimeout(refresh, 400);
}

async function refresh() {
  refreshing = null;
  const paths = dirty;
  dirty = new Set();
  if (query.value) return;
  const places = new Map();
  for (const element of tree.children) {
    const one = entries.get(element);
    if (one?.open) places.set(decodeURIComponent(one.ref), element);
  }
  for (const path of paths) {
    if (path === "") { await renew(null); return; }
    if (places.has(path)) await renew(places.get(path));
  }
  if (lookup.ref !== null && lookup.at >= lookup.steps.length) show(lookup.ref);
}

// Read a directory again, and open what was open in it.
async function renew(element) {
  const rows = element ? inside(element) : [...tree.children];
  const wasOpen = new Set(rows.filter(row => entries.get(row)?.open).map(row => entries.get(row).ref));
  const chosen = rows.find(row => row.getAttribute("aria-selected") === "true");
  const ref = chosen && entries.get(chosen)?.ref, hadFocus = chosen === document.activeElement;
  const fresh = await names(element ? entries.get(element).ref : "", element ? entries.get(element).level + 1 : 0);
  rows.forEach(row => row.remove());
  if (element) element.after(...fresh); else tree.append(...fresh);
  const queue = [...fresh];
  while (queue.length) {
    const row = queue.shift(), one = entries.get(row);
    if (one.ref === ref && one.entry) {
      row.tabIndex = 0;
      row.setAttribute("aria-selected", "true");
      if (hadFocus) row.focus();
    }
    if (one.entry && wasOpen.has(one.ref)) { await open(row); queue.push(...inside(row)); }
  }
  if (!tree.querySelector('[tabindex="0"]') && tree.firstChild) tree.firstChild.tabIndex = 0;
  if (lookup.ref !== null && lookup.at >= lookup.steps.length) show(lookup.ref);
}

// --- keys

function move(event) {
  const element = event.target.closest("li"), one = element && entries.get(element);
  if (!one) return false;
  const rows = [...tree.children].filter(row => entries.has(row)), at = rows.indexOf(element);
  switch (event.key) {
    case "ArrowDown": if (rows[at + 1]) select(rows[at + 1]); return true;
    case "ArrowUp": if (rows[at - 1]) select(rows[at - 1]); return true;
    case "Home": select(rows[0]); return true;
    case "End": select(rows.at(-1)); return true;
    case "ArrowRight":
      if (one.open) { if (rows[at + 1]) select(rows[at + 1]); } else open(element);
      return true;
    case "ArrowLeft":
      if (one.open) close(element);
      else { const above = rows.slice(0, at).reverse().find(row => entries.get(row).level < one.level); if (above) select(above); }
      return true;
    case "Enter": activate(element); return true;
    default: return false;
  }
}

tree.addEventListener("keydown", event => { if (move(event)) event.preventDefault(); });
tree.addEventListener("click", event => {
  const element = event.target.closest("li"), one = element && entries.get(element);
  if (!one) return;
  select(element);
  if (event.target.classList.contains("twist") && one.entry?.kind === "directory") one.open ? close(element) : open(element);
  else activate(element);
});
tree.addEventListener("dblclick", event => {
  const element = event.target.closest("li"), one = element && entries.get(element);
  if (one?.entry?.kind === "directory") one.open ? close(element) : open(element);
});

let typing = null;
query.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, 250); });
query.addEventListener("keydown", event => {
  if (event.key === "Escape") { query.value = ""; showTree(); tree.querySelector("li")?.focus(); }
  if (event.key === "ArrowDown" || event.key === "Enter") { tree.querySelector('li[tabindex="0"]')?.focus(); event.preventDefault(); }
});

const KEYS = {
  "/": () => { query.focus(); query.select(); },
  "?": () => by("keys").showModal(),
  " ": stepOn,
  w: () => { by("waste").open = !by("waste").open; by("waste").querySelector("summary").focus(); },
  r: count,
  p: () => { paused = !paused; by("pause").firstChild.textContent = paused ? "Go on " : "Pause "; },
  t: () => {
    const next = {"": "dark", dark: "light", light: ""}[document.documentElement.dataset.theme ?? ""];
    if (next) document.documentElement.dataset.theme = next; else delete document.documentElement.dataset.theme;
  },
};
document.addEventListener("keydown", event => {
  if (event.target.matches("input, button, summary, dialog *") && event.key !== "?" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (Object.hasOwn(KEYS, event.key)) { event.preventDefault(); KEYS[event.key](); }
});
for (const [id, key] of [["theme", "t"], ["help", "?"], ["recount", "r"], ["pause", "p"]]) by(id).addEventListener("click", () => KEYS[key]());

showUnion().then(() => Promise.all([showTree(), count()]));
