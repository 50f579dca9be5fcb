// Pieces of the page: each takes facts and gives an element. No state, and nothing is fetched here.
"use strict";

const CELLS = 480;  // cells of a drawn file, at most

function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...inside);
  return element;
}

// A colour for each layer; the upper's is the warm one. The number always stands beside it.
function colour(layer) {
  if (layer === null || layer < 0) return "#888";
  return layer === 0 ? "hsl(24 85% 42%)" : `hsl(${(205 + (layer - 1) * 67) % 360} 55% 42%)`;
}

function coloured(element, layer) {
  element.style.setProperty("--layer", colour(layer));
  return element;
}

function badge(layer) {
  return coloured(make("span", {class: "layer", title: `layer ${layer}`}, String(layer)), layer);
}

function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = bytes / 1024, unit = 0;
  while (value >= 1000 && unit < 3) { value /= 1024; unit += 1; }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

function shelf(layer) {
  const title = make("p", {}, badge(layer.index), ` ${layer.role}`);
  const about = make("p", {class: "path"}, layer.path);
  const made = layer.made_by ? [make("p", {class: "note"}, layer.made_by)] : [];
  return coloured(make("li", {class: "shelf", "data-layer": layer.index}, title, about, ...made,
    make("div", {class: "facts note"}, "counting …")), layer.index);
}

function facts(layer, most) {
  const bar = make("div", {class: "space", role: "img",
    "aria-label": `${size(layer.size)}, ${size(layer.wasted)} of it wasted`});
  const kept = make("i"), wasted = make("i", {class: "wasted"});
  kept.style.width = `${100 * (layer.size - layer.wasted) / Math.max(most, 1)}%`;
  wasted.style.width = `${100 * layer.wasted / Math.max(most, 1)}%`;
  bar.append(kept, wasted);
  const marks = `${plural(layer.marks, "whiteout")}, ${layer.opaque} opaque`;
  const waste = layer.wasted ? `, ${size(layer.wasted)} wasted` : "";
  return [bar, make("p", {}, `${size(layer.size)}${waste}; ${plural(layer.files, "file")}, ${
      plural(layer.directories, "directory", "directories")}`),
    make("p", {}, `adds ${layer.added}, changes ${layer.changed}, deletes ${layer.deleted}; ${marks}`)];
}

const WHY = {
  whiteout: layer => `deleted: a whiteout in layer ${layer}`,
  opaque: layer => `hidden: the directory is opaque in layer ${layer}`,
  gives: layer => `hidden by layer ${layer}`,
  file: layer => `hidden: a name on the way is no directory in layer ${layer}`,
};

function row(entry, level) {
  const isDirectory = entry.kind === "directory";
  const element = make("li", {role: "treeitem", "aria-level": level + 1, "aria-selected": "false", tabindex: -1,
    "aria-expanded": isDirectory ? "false" : null, class: entry.layer === null ? "gone" : ""});
  element.style.setProperty("--level", level);
  element.append(make("span", {class: "twist", "aria-hidden": "true"}, isDirectory ? "▸" : ""));
  element.append(make("span", {class: "name"}, entry.name + (isDirectory ? "/" : "")));
  if (entry.opaque) element.append(make("span", {class: "tag"}, "opaque"));
  if (entry.partial) element.append(make("span", {class: "tag"}, "partial"));
  if (entry.layer === null) {
    const holders = entry.layers.length ? "" : " of nothing";
    element.append(make("span", {class: "tag", title: WHY[entry.why]?.(entry.by) ?? ""}, `${entry.why}${holders}`));
    if (entry.by !== null) element.append(badge(entry.by));
    return element;
  }
  if (entry.size !== undefined) element.append(make("span", {class: "size"}, size(entry.size)));
  const layers = isDirectory ? entry.layers : [entry.layer];
  element.append(...layers.map(badge));
  return element;
}

// What a layer says of a path, in words.
function words(step) {
  const kind = step.kind === "other" ? "an object" : `a ${step.kind}`;
  switch (step.says) {
    case "gives":
      return step.kind === "directory"
        ? "has this directory: it gives the attributes. The search goes on, directories below are merged with it."
        : `has ${kind} of this name: that is what the union shows. The search ends.`;
    case "merges": return "has a directory of this name too: its names are added.";
    case "nothing": return "has no such name. The search goes on below.";
    case "whiteout": return "has a whiteout: the name is deleted. The search ends.";
    case "opaque": return "says that this directory is opaque: no layer below is asked about anything in it.";
    case "redirect": return `was renamed here: below, the search goes on as ${step.to}.`;
    case "file": return "has something that is no directory on the way. The search ends.";
    default: return `has ${kind} of this name, and is not asked: ${reason(step.by)}.`;
  }
}

function reason(by) {
  if (!by) return "the search has ended above";
  const marks = {whiteout: "a whiteout in", opaque: "an opaque directory in", gives: "the object in",
    file: "what is no directory in"};
  return `${marks[by.says] ?? "what is in"} layer ${by.layer} hides it`;
}

function step(one) {
  return coloured(make("li", {class: "step"}, badge(one.layer), make("span", {}, words(one)),
    make("span", {class: "path"}, one.where)), one.layer);
}

// The bytes of a file as cells, each in the colour of the layer that has them.
function blocks(file) {
  if (!file.partial) return [];
  const cell = Math.max(file.block_size, file.block_size * 2 ** Math.ceil(Math.log2(file.size / file.block_size / CELLS)));
  const drawn = make("div", {class: "blocks", role: "img"});
  const mine = new Map();
  for (const [start, end, layer] of file.runs) mine.set(layer, (mine.get(layer) ?? 0) + end - start);
  let at = 0;
  for (let start = 0; start < file.size; start += cell) {
    while (at < file.runs.length - 1 && file.runs[at][1] <= start) at += 1;
    const layers = new Set();
    for (let run = at; run < file.runs.length && file.runs[run][0] < start + cell; run += 1) layers.add(file.runs[run][2]);
    const [first, other] = [...layers];
    const one = coloured(make("i", {title: `${size(start)}: layer ${[...layers].join(" and ")}`,
      class: layers.size > 1 ? "both" : ""}), first);
    if (other !== undefined) one.style.setProperty("--other", colour(other));
    drawn.append(one);
  }
  const told = [...mine].sort(([one], [other]) => one - other).map(([layer, bytes]) => `${size(bytes)} in layer ${layer}`).join(", ");
  drawn.setAttribute("aria-label", `the file's blocks: ${told}`);
  const copied = file.copied === null ? "" : ` Copied up ${size(file.copied)} for ${size(file.asked)} that were written.`;
  return [make("h3", {}, "Its blocks"), drawn,
    make("p", {class: "note"}, `${told}, in blocks of ${size(file.block_size)}; a cell is ${size(cell)}.${copied}`)];
}

function request(one) {
  const time = new Date(one.time * 1000).toLocaleTimeString();
  const path = one.path === undefined ? "" : `/${one.path}${one.to === undefined ? "" : ` → /${one.to}`}`;
  const layer = make("td", {});
  const answered = one.layer ?? one.whiteout;
  if (answered !== undefined && answered !== null) layer.append(badge(answered), one.whiteout === undefined ? "" : " whiteout");
  const cells = [time, `${one.comm ?? ""} ${one.pid || ""}`, one.op, layer, one.bytes ?? "", one.us ?? "",
    `${path} ${one.errno ?? ""}`];
  const element = make("tr", {class: one.errno ? "failed" : ""},
    ...cells.map((cell, place) => cell instanceof Node ? cell
      : make("td", {class: place === 4 || place === 5 ? "number" : ""}, String(cell))));
  return [element, ...(one.copied ?? []).map(copy => make("tr", {class: "copied"},
    make("td", {colspan: 7}, `copy-up by ${one.op}: ${copyWords(copy)}`)))];
}

function copyWords(copy) {
  const of = copy.path ? ` of /${copy.path}` : "";
  switch (copy.how) {
    case "blocks": return `${size(copy.bytes)} from ${copy.offset}, in blocks of ${size(copy.block_size)}`;
    case "map": return `an empty block map${of}, no data`;
    case "clone": return `the whole file${of}, its blocks shared`;
    case "directory": return `the directory /${copy.path}`;
    default: return `the whole object${of}, ${size(copy.bytes)}`;
  }
}
